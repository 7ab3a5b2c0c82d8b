"""Analysis of a run: its images, its layers, their filters' strongest activations, and rankings of any images.

>>> run = open_run(store)  # a path or a URL, such as "runs/demo.zarr"
>>> run.layers
{'conv1': <layer 1 (conv1): 4 filters, 6 images>}
>>> [(hit.rank, hit.key, hit.class_name) for hit in run.layer(1).top(filter=2)][:2]
[(0, 'cat-1', 'cat'), (1, 'dog-0', 'dog')]

Every call reads from the store, so a run can be followed while it is still being mined. Neither the image files nor the
network are needed.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from ...errors import InputError
from ..store import Store
from .datasets import open_dataset, open_datatree
from .hits import Images
from .layer_view import LayerView

if TYPE_CHECKING:
    from xarray import Dataset, DataTree


class Run:
    """A run's store, open for reading.

    Attributes
    ----------
    path : str
    images : Images
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.path = store.path
        self.images = Images(store)

    @property
    def layers(self) -> dict[str, LayerView]:
        """The layers that the store has by now: by name, in the order of the network."""
        return {name: LayerView(self._store, self.images, name) for name in self._store.layers}

    def layer(self, name: str | int) -> LayerView:
        """Return a layer by its name or number.

        Raises
        ------
        InputError
            The store has no such layer.

        Examples
        --------
        >>> open_run(store).layer(1).name
        'conv1'
        """
        for layer in self.layers.values():
            if str(name) in (layer.name, str(layer.number)):
                return layer
        known = ", ".join(self.layers) or "none yet"
        raise InputError(f"{self.path} has no layer {name}: its layers are {known}. `topnine run` adds others.")

    def dataset(self) -> Dataset:
        """Return ``images/*`` as one lazy ``xarray.Dataset`` (extra ``analysis``)."""
        return open_dataset(self._store, "images")

    def datatree(self) -> DataTree:
        """Return the whole run as one lazy ``xarray.DataTree`` (extra ``analysis``).

        >>> run = open_run(store).datatree()
        >>> float(run["layers/conv1"].top_activation.sel(filter=2, rank=0))
        3.0
        """
        return open_datatree(self._store)


def open_run(path: str | PathLike[str]) -> Run:
    """Open a run's store for analysis, finished or still being mined.

    Parameters
    ----------
    path : str or path
        A folder, or a URL such as ``s3://bucket/run.zarr`` (extra ``s3``).

    Raises
    ------
    InputError
        There is no store at the path, or it holds no images yet.

    Examples
    --------
    >>> run = open_run(store)
    >>> {name: layer.filters for name, layer in run.layers.items()}
    {'conv1': 4}
    """
    store = Store.open(str(path))
    if store.fingerprint("index") is None:
        raise InputError(f"store {path} holds no images yet: `topnine run` begins with them.")
    return Run(store)

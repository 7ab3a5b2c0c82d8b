"""A run's store as Python sees it: its layers, their filters' strongest patches, and rankings of any images.

>>> run = open_run(store)  # a path or a URL, as "runs/demo.zarr"
>>> run.layers
{'conv1': <layer 1 (conv1): 4 filters, 6 images>}
>>> [(hit.rank, hit.key, hit.class_name) for hit in run.layer(1).top(filter=2)][:2]
[(0, 'cat-1', 'cat'), (1, 'dog-0', 'dog')]

Nothing is kept in memory: every call reads what it gives, so a run that is still being mined can be followed. Neither
the images nor the network are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import repeat
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError
from .ranking import Top, merge, top
from .store import Store

if TYPE_CHECKING:
    from xarray import Dataset


@dataclass(frozen=True)
class Hit:
    """One of a filter's strongest activations.

    Attributes
    ----------
    rank : int
        0 is the strongest.
    activation : float
    image : int
        Its id.
    key : str
    label : int
        Class index, -1 where it is unknown.
    class_name : str
        Empty where it is unknown.
    patch : ndarray (y, x, rgb) uint8, or None
        What the unit sees; None where the layer is not deconvolved, as are projection and box.
    projection : ndarray (y, x, rgb) float32, or None
        Unnormalised: ``pipeline.figures.contrast`` draws it.
    box : tuple of int, or None
        Top, left, bottom, right of the patch, in pixels of the network's input.
    """

    rank: int
    activation: float
    image: int
    key: str
    label: int
    class_name: str
    patch: np.ndarray | None
    projection: np.ndarray | None
    box: tuple[int, ...] | None


class Images:
    """The images of a run, by id.

    Examples
    --------
    >>> images = open_run(store).images
    >>> len(images), images.keys[:3].tolist(), images.labels[:3].tolist(), images.class_names
    (6, ['cat-0', 'dog-0', 'cat-1'], [0, 1, 0], ('cat', 'dog'))
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __len__(self) -> int:
        return self._store.images

    @cached_property
    def keys(self) -> np.ndarray:
        """Keys (image) of str."""
        return self._store.image_columns(["key"])[0]

    @cached_property
    def labels(self) -> np.ndarray:
        """Class indices (image) int32, -1 where it is unknown."""
        return self._store.image_columns(["label"])[0]

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names by class index; none where the data names no classes."""
        return tuple(self._store.attributes["dataset"]["classes"])

    def class_name(self, label: int) -> str:
        """Give the name of a class; nothing where it has none."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else ""


class LayerView:
    """One layer of a run, as ``Run.layer`` gives it."""

    def __init__(self, store: Store, images: Images, name: str) -> None:
        self._store = store
        self._images = images
        self.name = name
        self.attributes: dict[str, Any] = store.layer_attributes(name)

    def __repr__(self) -> str:
        title = f"{self.number} ({self.name})" if self.number else self.name
        return f"<layer {title}: {self.filters} filters, {len(self._images):,} images>"

    @property
    def number(self) -> int | None:
        """Its number among the numbered layers, if it is one."""
        return self.attributes["number"]

    @property
    def filters(self) -> int:
        """How many filters it has."""
        return self.attributes["filters"]

    @property
    def mined(self) -> float:
        """The fraction of the images that are mined, by now.

        >>> open_run(store).layer(1).mined
        1.0
        """
        rows = [self._store.rows(block) for block in self._store.done_blocks(self.name)]
        return sum(block.stop - block.start for block in rows) / len(self._images)

    def activation(self, filter: int) -> np.ndarray:
        """Give a filter's activations (image) float32, NaN where an image is not mined or could not be decoded.

        >>> open_run(store).layer("conv1").activation(2)
        array([0.5, 2. , 3. , nan, 0. , 2. ], dtype=float32)
        """
        self._check_filter(filter)
        column = self._store.read_filter(self.name, filter)[:, 0]
        mined = np.zeros(len(column), bool)
        for rows in self._mined_rows():
            mined[rows] = True
        return np.where(mined, column, np.float32(np.nan))

    def top(self, filter: int) -> list[Hit]:
        """Give a filter's strongest activations as rank recorded them, strongest first; nine, or fewer.

        Raises
        ------
        InputError
            The layer is not ranked yet, or has no such filter.

        Examples
        --------
        >>> hit = open_run(store).layer(1).top(filter=2)[0]
        >>> hit.activation, hit.image, hit.label, hit.patch.shape, hit.projection.shape, hit.box
        (3.0, 2, 0, (3, 3, 3), (3, 3, 3), (0, 1, 3, 4))
        """
        self._check_filter(filter)
        self._check_ranked()
        ranking = self._store.read_ranking(self.name, slice(filter, filter + 1))
        image = ranking.image[0][ranking.image[0] >= 0]
        keys, labels = self._store.image_columns(("key", "label"), image)
        return [
            Hit(rank, float(activation), int(i), str(key), int(label), self._images.class_name(label), *pictures)
            for rank, (activation, i, key, label, pictures) in enumerate(
                zip(ranking.activation[0], image, keys, labels, self._pictures(filter), strict=False)
            )
        ]

    def rank(self, k: int = 100, where: np.ndarray | None = None) -> Top:
        """Rank any images anew, from the activations: of every filter the ``k`` strongest.

        Of a run that is still being mined it ranks the blocks that are done. A block is read at a time.

        Parameters
        ----------
        k : int
            How many to give; fewer positive activations leave NaN and -1 at the end.
        where : ndarray (image) bool, optional
            Which images; all, unless given.

        Returns
        -------
        Top
            ``activation`` (filter, k) float32 and ``image`` (filter, k) int64: activation descending, then image id
            ascending, as everywhere.

        Examples
        --------
        >>> run = open_run(store)
        >>> run.layer(1).rank(k=3).image[2]
        array([2, 1, 5])
        >>> run.layer(1).rank(k=3, where=run.images.labels == 1).image[2]
        array([ 1,  5, -1])
        """
        if k < 1:
            raise InputError(f"k = {k} ranks nothing: it is 1 or more.")
        wanted = self._check_images(where)
        best = Top(np.full((self.filters, k), np.nan, np.float32), np.full((self.filters, k), -1))
        for rows in self._mined_rows():
            if wanted[rows].any():
                activation = np.where(wanted[rows, None], self._store.read_activation(self.name, rows), np.nan)
                best = merge([best, top(activation, rows.start, k)], k)
        return best

    def table(self) -> dict[str, np.ndarray]:
        """Give every filter's strongest activations as columns, a row a filter and rank; empty ranks are left out.

        Returns
        -------
        dict of str to ndarray (row)
            ``layer``, ``filter``, ``rank``, ``activation``, ``image`` (its id), ``key``, ``label`` (-1 where it is
            unknown), ``class_name`` (empty where it is), ``row`` and ``column`` (where in the map), and ``box_top``,
            ``box_left``, ``box_bottom``, ``box_right`` (of the patch in pixels of the network's input; -1 where the
            layer is not deconvolved).

        Raises
        ------
        InputError
            The layer is not ranked yet.

        Examples
        --------
        >>> table = open_run(store).layer(1).table()
        >>> table["filter"].tolist()
        [0, 0, 0, 2, 2, 2, 2, 3, 3, 3]
        >>> table["key"][3:5].tolist(), table["class_name"][3:5].tolist(), table["box_bottom"][3:5].tolist()
        (['cat-1', 'dog-0'], ['cat', 'dog'], [3, 3])
        """
        self._check_ranked()
        ranking = self._store.read_ranking(self.name)
        filter, rank = np.nonzero(ranking.image >= 0)
        image = ranking.image[filter, rank]
        keys, labels = self._store.image_columns(("key", "label"), image)
        names = [self._images.class_name(label) for label in labels]
        deconvolved = self._store.fingerprint("deconvolve", self.name) is not None
        box = self._store.read_layer(self.name, "box")[filter, rank] if deconvolved else np.full((len(image), 4), -1)
        return {
            "layer": np.full(len(image), self.name, object),
            "filter": filter.astype(np.int32),
            "rank": rank.astype(np.int32),
            "activation": ranking.activation[filter, rank],
            "image": image,
            "key": np.array(keys, object),
            "label": labels,
            "class_name": np.array(names, object),
            "row": ranking.row[filter, rank],
            "column": ranking.column[filter, rank],
            **{f"box_{side}": box[:, i].astype(np.int32) for i, side in enumerate(("top", "left", "bottom", "right"))},
        }

    def dataset(self) -> Dataset:
        """Give all arrays of the layer as one lazy ``xarray.Dataset`` (extra ``analysis``)."""
        return _dataset(self._store, f"layers/{self.name}")

    def _pictures(self, filter: int) -> Iterator[tuple[Any, Any, Any]]:
        """Give patch, projection and box of every rank; None for each where the layer is not deconvolved."""
        if self._store.fingerprint("deconvolve", self.name) is None:
            return repeat((None, None, None))
        names = ("patch", "projection", "box")
        patch, projection, box = (
            self._store.read_layer(self.name, name, slice(filter, filter + 1))[0] for name in names
        )
        return zip(patch, projection, (tuple(corners) for corners in box.tolist()), strict=True)

    def _mined_rows(self) -> Iterator[slice]:
        return (self._store.rows(block) for block in sorted(self._store.done_blocks(self.name)))

    def _check_filter(self, filter: int) -> None:
        if not 0 <= filter < self.filters:
            raise InputError(f"layer {self.name} has no filter {filter}: its filters are 0 to {self.filters - 1}.")

    def _check_ranked(self) -> None:
        if self._store.fingerprint("rank", self.name) is None:
            raise InputError(
                f"layer {self.name} of {self._store.path} is not ranked yet, {self.mined:.0%} of its images are mined: "
                "`topnine run` goes on, and rank() ranks those."
            )

    def _check_images(self, where: np.ndarray | None) -> np.ndarray:
        images = len(self._images)
        wanted = np.ones(images, bool) if where is None else np.asarray(where)
        if wanted.shape != (images,) or wanted.dtype != bool:
            raise InputError(
                f"where is {wanted.dtype} of shape {wanted.shape}: it is one bool for each of the {images:,} images."
            )
        return wanted


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
        """The layers there are by now, by name, in order of depth."""
        return {name: LayerView(self._store, self.images, name) for name in self._store.layers}

    def layer(self, name: str | int) -> LayerView:
        """Give a layer by its name or number.

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
        """Give ``images/*`` as one lazy ``xarray.Dataset`` (extra ``analysis``)."""
        return _dataset(self._store, "images")


def open_run(path: str | PathLike[str]) -> Run:
    """Open a run's store for analysis, finished or still being mined.

    Parameters
    ----------
    path : str or path
        A folder, or a URL, as ``s3://bucket/run.zarr`` (extra ``s3``).

    Raises
    ------
    InputError
        There is no store, or it holds no images yet.

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


def _dataset(store: Store, group: str) -> Dataset:
    if find_spec("xarray") is None:
        raise InputError("dataset() needs xarray: pip install 'topnine[analysis]'.")
    import xarray

    return xarray.open_zarr(store.storage, group=group, consolidated=False)

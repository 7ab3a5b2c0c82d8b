"""A layer of a run, for analysis: its hits, rankings of any images, tables, and its arrays."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...ranking.topk import Top, merge, top
from ..names import layer_path
from ..store import Store
from .columns import activation_columns, hit_columns
from .datasets import open_dataset
from .hits import Hit, Images
from .pictures import draw_hits

if TYPE_CHECKING:
    from PIL import Image
    from xarray import Dataset


class LayerView:
    """A layer of a run, as ``Run.layer`` returns it.

    Attributes
    ----------
    name : str
    attributes : dict
        Those that the store records of the layer.
    """

    def __init__(self, store: Store, images: Images, name: str) -> None:
        self._store = store
        self._images = images
        self.name = name
        self._layer = store.layer(name)
        self.attributes: dict[str, Any] = dict(self._layer.attributes)

    def __repr__(self) -> str:
        title = f"{self.number} ({self.name})" if self.number else self.name
        return f"<layer {title}: {self.filters} filters, {len(self._images):,} images>"

    @property
    def number(self) -> int | None:
        """The layer's number, None where it is not among the numbered layers."""
        number: int | None = self.attributes["number"]
        return number

    @property
    def filters(self) -> int:
        """How many filters the layer has."""
        return self._layer.filters

    @property
    def mined(self) -> float:
        """The fraction of the images that are mined by now.

        >>> open_run(store).layer(1).mined
        1.0
        """
        images: int = sum(rows.stop - rows.start for rows in self._mined_rows())
        return images / len(self._images)

    def activation(self, filter: int) -> np.ndarray:
        """Return a filter's activations (image) float32, NaN where an image is not mined or could not be decoded.

        >>> open_run(store).layer("conv1").activation(2)
        array([0.5, 2. , 3. , nan, 0. , 2. ], dtype=float32)
        """
        self._check_filter(filter)
        if self.mined == 1:
            return self._layer.read_filter(filter)
        activation = np.full(len(self._images), np.nan, np.float32)
        for rows in self._mined_rows():
            activation[rows] = self._layer.read_filter(filter, rows)
        return activation

    def top(self, filter: int) -> list[Hit]:
        """Return a filter's nine or fewer strongest activations as rank recorded them, strongest first.

        Raises
        ------
        InputError
            The layer is not ranked yet, or has no such filter.

        Examples
        --------
        >>> hit = open_run(store).layer(1).top(filter=2)[0]
        >>> hit.activation, hit.image, hit.label, hit.patch.shape, hit.projection.shape, hit.box
        (3.0, 2, 0, (3, 3, 3), (3, 3, 3), (0, 1, 3, 4))
        >>> hit.source_box
        (0.0, 2.0, 6.0, 8.0)
        """
        self._check_filter(filter)
        self._check_ranked()
        ranking = self._layer.read_ranking(slice(filter, filter + 1))
        image = ranking.image[0][ranking.image[0] >= 0]
        keys, labels = self._store.images.columns(("key", "label"), image)
        return [
            Hit(rank, float(activation), int(i), str(key), int(label), self._images.class_name(label), *pictures)
            for rank, (activation, i, key, label, pictures) in enumerate(
                zip(ranking.activation[0], image, keys, labels, self._pictures(filter), strict=False)
            )
        ]

    def show(self, filter: int, view: str = "footprints") -> Image.Image:
        """Draw a filter's sheet: its projections beside the patches that they come from.

        Parameters
        ----------
        filter : int
        view : str
            ``footprints``, cropped to where the projections are strong, or ``windows``, whole as in the paper.

        Returns
        -------
        PIL.Image.Image
            A notebook shows it.

        Raises
        ------
        InputError
            The layer is not deconvolved yet, has no such filter, or no image activates the filter.

        Examples
        --------
        >>> open_run(store).layer(1).show(2).mode
        'RGB'
        """
        hits = self.top(filter)
        if view not in ("footprints", "windows"):
            raise InputError(f"view is {view}: it is footprints or windows.")
        if not hits:
            raise InputError(f"no image activates filter {filter} of layer {self.name}: there is nothing to draw.")
        if hits[0].patch is None:
            raise InputError(f"layer {self.name} of {self._store.path} is not deconvolved yet: `topnine run` goes on.")
        bands = self._store.attributes.get("configuration", {}).get("tile", {}).get("bands", [])
        title = f"{self.number or self.name} · filter {filter}"
        return draw_hits(hits, f"layer {title}", bands, view == "footprints")

    def rank(self, k: int = 100, where: np.ndarray | None = None) -> Top:
        """Rank any images by their recorded activations, and return the ``k`` strongest of every filter.

        In a run that is still being mined, the blocks that are done are ranked. One block is in memory at a time.

        Parameters
        ----------
        k : int
            How many ranks; where fewer activations are positive, the last ranks are NaN and -1.
        where : ndarray (image) bool, optional
            Which images compete. All, unless given.

        Returns
        -------
        Top
            ``activation`` (filter, k) float32 and ``image`` (filter, k) int64: activation descending, then image id
            ascending.

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
                activation = np.where(wanted[rows, None], self._layer.read_activation(rows), np.nan)
                best = merge([best, top(activation, rows.start, k)], k)
        return best

    def table(self) -> dict[str, np.ndarray]:
        """Return every filter's strongest activations as columns, with one row per hit.

        Returns
        -------
        dict of str to ndarray (row)
            ``layer``, ``filter``, ``rank``, ``activation``, ``image`` (the id), ``key``, ``label`` (-1 where it is
            unknown), ``class_name`` (empty where it is unknown), ``row`` and ``column`` (in the map), and ``box_top``,
            ``box_left``, ``box_bottom``, ``box_right`` (of the patch, in pixels of the network's input; -1 where the
            layer is not deconvolved), and ``source_box_top``, … (the same in pixels of the source image; NaN there).

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
        return hit_columns(self._store, self._images, self._layer)

    def activation_table(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the long table of activations as columns, part by part: it has a row for every image and filter.

        The rows are in the order of the images, then of the filters. An image that is not mined yet or could not be
        decoded has none. At most one block of activations is in memory.

        Yields
        ------
        dict of str to ndarray (row)
            ``layer``, ``image`` (the id), ``key``, ``label``, ``class_name``, ``filter``, ``activation``, ``row`` and
            ``column``, as in ``table``.

        Raises
        ------
        InputError
            None of the layer's images is mined yet.

        Examples
        --------
        >>> parts = list(open_run(store).layer(1).activation_table())
        >>> [len(part["image"]) for part in parts], parts[0]["key"][2:6].tolist()
        ([12, 8], ['cat-0', 'cat-0', 'dog-0', 'dog-0'])
        >>> parts[1]["filter"].tolist(), parts[1]["activation"].tolist()
        ([0, 1, 2, 3, 0, 1, 2, 3], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 3.0])
        """
        blocks = list(self._mined_rows())
        if not blocks:
            raise InputError(f"layer {self.name} of {self._store.path} has no activations yet: `topnine run` mines it.")
        return activation_columns(self._store, self._images, self._layer, blocks)

    def dataset(self) -> Dataset:
        """Return all arrays of the layer as one lazy ``xarray.Dataset`` (extra ``analysis``).

        >>> layer = open_run(store).layer(1).dataset()
        >>> float(layer.top_activation.sel(filter=2, rank=0)), int(layer.box.sel(filter=2, rank=0, corner="left"))
        (3.0, 1)
        """
        return open_dataset(self._store, layer_path(self.name))

    def _pictures(self, filter: int) -> Iterator[tuple[Any, ...]]:
        """Return what deconvolve wrote of every rank, as the fields of a hit; each None where it did not."""
        if self._layer.fingerprint("deconvolve") is None:
            return repeat((None,) * 6)
        patch, projection, mask, *boxes = (
            self._layer.read(name, slice(filter, filter + 1))[0]
            for name in ("patch", "projection", "mask", "box", "source_box", "footprint")
        )
        corners = (map(tuple, box.tolist()) for box in boxes)
        return zip(patch, projection, *corners, mask, strict=True)

    def _mined_rows(self) -> Iterator[slice]:
        return (self._store.images.rows(block) for block in sorted(self._store.progress.done_blocks(self.name)))

    def _check_filter(self, filter: int) -> None:
        if not 0 <= filter < self.filters:
            raise InputError(f"layer {self.name} has no filter {filter}: its filters are 0 to {self.filters - 1}.")

    def _check_ranked(self) -> None:
        if self._layer.fingerprint("rank") is None:
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

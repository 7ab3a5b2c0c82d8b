"""A filter's hits, and the images of a run, as ``open_run`` returns them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..store import Store
from .pictures import draw_hits, to_png


@dataclass(frozen=True)
class Hit:
    """One of a filter's strongest activations.

    Attributes
    ----------
    rank : int
        0 is the strongest.
    activation : float
    image : int
        The image's id.
    key : str
        The image's key.
    label : int
        The image's class index, -1 where it is unknown.
    class_name : str
        Empty where it is unknown.
    patch : ndarray (y, x, channel) uint8, or None
        The pixels that the activation depends on; None where the layer is not deconvolved.
    projection : ndarray (y, x, channel) float32, or None
        The deconvnet's reconstruction, unnormalised (``topnine.pipeline.drawing.contrast`` makes it a picture); None
        where there is no patch.
    box : tuple of int, or None
        Top, left, bottom, right of the patch, in pixels of the network's input; None where there is no patch.
    source_box : tuple of float, or None
        The same in pixels of the source image.
    footprint : tuple of int, or None
        Top, left, bottom, right of the square in the network's input that has 99 % of the projection's energy.
    mask : ndarray (y, x) uint8, or None
        How much of the patch the projection covers; 255 where it is strong.
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
    source_box: tuple[float, ...] | None
    footprint: tuple[int, ...] | None
    mask: np.ndarray | None

    def _repr_png_(self) -> bytes | None:
        """Return what a notebook shows: the projection beside the patch; nothing before deconvolve."""
        if self.patch is None:
            return None
        return to_png(draw_hits([self], f"hit {self.rank}, image {self.key}", (), footprints=True))


class Images:
    """The images of a run, by id.

    Examples
    --------
    >>> from topnine import open_run
    >>> images = open_run(store).images
    >>> len(images), images.keys[:3].tolist(), images.labels[:3].tolist(), images.class_names
    (6, ['cat-0', 'dog-0', 'cat-1'], [0, 1, 0], ('cat', 'dog'))
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store.images)

    @cached_property
    def keys(self) -> np.ndarray:
        """The keys (image) of str."""
        return self._store.images.columns(["key"])[0]

    @cached_property
    def labels(self) -> np.ndarray:
        """The class indices (image) int32, -1 where unknown."""
        return self._store.images.columns(["label"])[0]

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names by class index; none where the data names no classes."""
        return tuple(self._store.attributes["dataset"]["classes"])

    def class_name(self, label: int) -> str:
        """Return the name of a class, an empty text where it has none."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else ""

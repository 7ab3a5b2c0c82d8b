"""Pictures of hits for notebooks: what the filter responded to, in projection and patch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...drawing.bands import to_rgb
from ...drawing.sheets import Cell, View, filter_sheet

if TYPE_CHECKING:
    from .hits import Hit

FULL_CONTRAST = 0.995  # the quantile of a filter's projections that gets full contrast


def draw_hits(hits: Sequence[Hit], title: str, bands: Sequence[int], footprints: bool) -> Image.Image:
    """Draw the hits of a filter as its sheet: projections beside patches, each with its activation and class or key.

    Parameters
    ----------
    hits : sequence of Hit
        At least one; all with pictures.
    title : str
    bands : sequence of int
        The channels that are shown: see ``to_rgb``.
    footprints : bool
        Whether only what lies in the footprints is drawn.
    """
    patch, projection = (
        to_rgb(np.stack([getattr(hit, name) for hit in hits]), bands) for name in ("patch", "projection")
    )
    box, footprint = (np.array([getattr(hit, name) for hit in hits]) for name in ("box", "footprint"))
    mask = np.stack([hit.mask for hit in hits if hit.mask is not None])
    cell = Cell(0, patch, projection, footprint - box[:, [0, 1, 0, 1]], mask, len(hits))  # no number is drawn
    captions = [f"{hit.activation:.3g}  {hit.class_name or hit.key}" for hit in hits]
    return filter_sheet(cell, captions, title, View(footprints, FULL_CONTRAST))


def to_png(picture: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()

"""What a network gives on a fixed input: by this it is known again, in every worker and on every later day."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SEED = 9
IMAGES = 2

# How far an activation computed anew may be from the one before, as a fraction of the strongest: of a layer where a
# network is known again, of a filter where it is projected. float32 is the difference that other batches, crops and
# machines make. The others are about three times the largest difference from float32 over 500 photographs: 0.035 in
# bfloat16, 0.0046 in float16, both in SqueezeNet; tf32 has float16's digits.
TOLERANCE = {"float32": 1e-4, "tf32": 0.015, "bfloat16": 0.1, "float16": 0.015}

References = Mapping[str, tuple[float, ...]]


def reference_images(shape: tuple[int, int, int]) -> np.ndarray:
    """Return the fixed input (image, y, x, channel) uint8 of a shape (y, x, channel): seeded noise, coarse and fine."""
    height, width, channels = shape
    random = np.random.default_rng(SEED)
    fine = random.integers(0, 256, (IMAGES, *shape))
    coarse = random.integers(0, 256, (IMAGES, -(-height // 8), -(-width // 8), channels)).repeat(8, 1).repeat(8, 2)
    return ((fine + 3 * coarse[:, :height, :width]) // 4).astype(np.uint8)


def find_difference(recorded: References, now: References, precision: str) -> str:
    """Compare activations on the fixed input; return a part of a sentence that says what differs, or an empty text."""
    for name in recorded.keys() & now.keys():
        was, gives = np.array(recorded[name]), np.array(now[name])
        if was.shape != gives.shape:
            return f"layer {name} has other filters"
        largest = np.abs(was).max()
        if not (np.abs(gives - was) <= TOLERANCE[precision] * largest).all():
            at = np.abs(gives - was).argmax()
            return f"layer {name} gives {gives[at]:.6g} on a fixed input where it gave {was[at]:.6g}"
    return ""

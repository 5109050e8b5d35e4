"""Grey images, which are views: one plane, repeated for three channels. What looks at them looks at a third of the
numbers, and gets the same."""

from __future__ import annotations

import numpy as np

from patchbank.arrays import Array


def grey_of(image: Array) -> Array | None:
    """The plane (H, W) that a view (H, W, 3) repeats; None for an image that has three."""
    return image[:, :, 0] if image.ndim == 3 and image.shape[2] == 3 and image.strides[2] == 0 else None


def repeated(grey: Array) -> Array:
    """(H, W) uint8 or float32 -> (H, W, 3), contiguous, in a tenth of NumPy's time."""
    import cv2

    return cv2.cvtColor(np.ascontiguousarray(grey), cv2.COLOR_GRAY2RGB)

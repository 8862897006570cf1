"""Images to squares of one extent, in two ways by name, and to grey."""

import numpy as np
import tensorflow as tf


def nearest(image: np.ndarray, extent: int) -> np.ndarray:
    """Resizes to a square by the nearest pixel, exactly as PIL does."""
    height, width = image.shape[:2]
    rows = nearest_indices(height, extent)
    return image[rows][:, nearest_indices(width, extent)]


def nearest_indices(size: int, extent: int) -> np.ndarray:
    """Which pixels of an axis of `size` remain: floor((i + .5) size / extent).

    The centres are added up one by one, as PIL has it. Where one falls on
    the border of two pixels, as with sizes of 400 or 640, the rounding of
    the sum decides between them.
    """
    step = size / extent
    steps = np.full(extent, step)
    steps[0] = step / 2
    return np.cumsum(steps).astype(int)


def bicubic(image: np.ndarray, extent: int) -> np.ndarray:
    """Resizes to a square by TensorFlow's antialiased bicubic filter.

    PIL's differs by the rounding of its two passes: by at most 1 of 255.
    """
    resized = tf.image.resize(
        image, (extent, extent), method="bicubic", antialias=True
    )
    return np.clip(np.rint(resized.numpy()), 0, 255).astype(np.uint8)


def grey(images: np.ndarray) -> np.ndarray:
    """The brightness of RGB images, shape `(..., 1)`, exactly as PIL has it.

    Source: ITU-R BT.601, by weights in 65,536ths.
    """
    brightness = np.full(images.shape[:-1], 0x8000, np.uint32)
    for channel, weight in enumerate((19595, 38470, 7471)):
        brightness += images[..., channel] * np.uint32(weight)
    return (brightness >> 16).astype(np.uint8)[..., np.newaxis]


RESIZES = {"nearest": nearest, "bicubic": bicubic}


def check_resize(resize) -> None:
    """Refuses what is no key of `RESIZES`.

    Raises:
        ValueError: That lists them.
    """
    if not isinstance(resize, str) or resize not in RESIZES:
        raise ValueError(
            f"`resize` must be one of {sorted(RESIZES)}. Received: {resize!r}."
        )

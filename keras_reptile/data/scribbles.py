"""Scribbles: an endless set of hand-drawn characters, made by code.

A class is a programme of one to four curved strokes; a drawing is a hand's
rendering of it, with jitter in every control point, a slant, a size, a place
and a pen width of its own. It looks and behaves like Omniglot, needs no
download, and has as many classes as one asks for.
"""

import numpy as np

from keras_reptile.data.classes import ClassDataset
from keras_reptile.integers import check_integer

EXTENT = 28
_MAX_STROKES = 4
_CONTROL_POINTS = 4
_POINTS_PER_STROKE = 40


def scribbles(
    num_classes: int, seed: int = 0, examples_per_class: int = 20
) -> ClassDataset:
    """Draws a set of invented characters.

    Class `i` of a seed is the same however many classes are asked for. Take
    another seed for classes to test on.

    Args:
        num_classes: Number of classes.
        seed: An integer of at least 0 that names the set.
        examples_per_class: Drawings of each class.

    Returns:
        A `ClassDataset` of uint8 images `(28, 28, 1)`: ink 0, background
        255, anti-aliased.

    Raises:
        ValueError: If a number is out of range.

    Example:

    ```python
    train, test = kr.data.scribbles(500, seed=0), kr.data.scribbles(100, 1)
    ```
    """
    check_integer("num_classes", num_classes, 1)
    check_integer("seed", seed, 0)
    if seed >= 2**32:  # Whose words NumPy would take for a class' number.
        raise ValueError(
            f"`seed` must be less than 2**32. Received: seed={seed}."
        )
    check_integer("examples_per_class", examples_per_class, 1)
    images = [
        _draw_class(np.random.default_rng([seed, index]), examples_per_class)
        for index in range(num_classes)
    ]
    x = np.concatenate(images)[..., np.newaxis]
    return ClassDataset(x, [examples_per_class] * num_classes)


def _draw_class(rng, number):
    strokes = rng.integers(1, _MAX_STROKES + 1)
    programme = _programme(rng, strokes)
    hand = programme + rng.normal(0, 0.045, (number, *programme.shape))
    hand = _in_own_way(rng, hand)
    curves = _bezier(hand).reshape(number, -1, 2)
    width = rng.uniform(0.8, 1.35, number)
    return _rasterise(curves * EXTENT, width)


def _programme(rng, strokes):
    """Control points `(strokes, 4, 2)` in the unit square.

    A stroke goes from one place to another some way off, along a curve; the
    next begins where one ended, or anywhere.
    """
    points = np.empty((strokes, _CONTROL_POINTS, 2))
    for i in range(strokes):
        start = rng.uniform(0.12, 0.88, 2)
        if i and rng.random() < 0.5:
            start = points[rng.integers(i), rng.choice([0, -1])]
        end = rng.uniform(0.12, 0.88, 2)
        while np.linalg.norm(end - start) < 0.3:
            end = rng.uniform(0.12, 0.88, 2)
        along = np.array([[1 / 3], [2 / 3]])
        bend = rng.normal(0, 0.3, (2, 2))
        points[i] = [start, *(start + along * (end - start) + bend), end]
    return np.clip(points, 0.02, 0.98)


def _in_own_way(rng, points):
    """Slants, sizes, turns and places each drawing, `(n, strokes, 4, 2)`."""
    number = len(points)
    angle = rng.normal(0, 0.1, number)
    slant = rng.normal(0, 0.15, number)
    size = rng.uniform(0.8, 1.08, (number, 1)) * rng.normal(
        1, 0.06, (number, 2)
    )
    turn = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    shear = np.array(
        [[np.ones(number), slant], [np.zeros(number), np.ones(number)]]
    )
    matrix = np.einsum("ijn,jkn,nk->nik", turn, shear, size)
    place = rng.normal(0, 0.035, (number, 1, 1, 2))
    return np.einsum("nik,nspk->nspi", matrix, points - 0.5) + 0.5 + place


def _bezier(points):
    """Points along cubic curves: `(..., 4, 2)` to `(..., t, 2)`."""
    t = np.linspace(0, 1, _POINTS_PER_STROKE)
    basis = np.stack(
        [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1
    )
    return np.einsum("tp,...pd->...td", basis, points)


def _rasterise(curves, width):
    """Images of pens of `width` pixels moved along `(n, points, 2)`."""
    centres = np.arange(EXTENT, dtype=np.float32) + 0.5
    offsets = (curves[..., np.newaxis] - centres).astype(np.float32) ** 2
    columns, rows = offsets[:, :, 0], offsets[:, :, 1]
    squared = np.empty((len(curves), EXTENT, EXTENT), np.float32)
    for n in range(len(curves)):
        squared[n] = (rows[n][:, :, None] + columns[n][:, None]).min(0)
    # A pixel darkens over one pixel's width at the edge of the pen.
    light = np.sqrt(squared) - width[:, None, None] / 2 + 0.5
    return np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)

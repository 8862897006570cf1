"""Omniglot as the original splits and prepares it, through TFDS.

Source: Lake, Salakhutdinov & Tenenbaum 2015; the original's `omniglot.py`
for the split, the resizing and the rotations. Ink is 0, the background 1.
"""

import random

import numpy as np

from keras_reptile.data import cache
from keras_reptile.data.classes import ClassDataset
from keras_reptile.data.splits import Splits
from keras_reptile.integers import check_integer

NUM_CHARACTERS, NUM_DRAWINGS, EXTENT = 1623, 20, 28
NUM_TRAINING = 1200
# Nearest neighbour from 105 to 28 pixels, by pixel centres as PIL has it.
_NEAREST = np.floor((np.arange(EXTENT) + 0.5) * 105 / EXTENT).astype(int)
# What the cache holds, by name and shape.
_ARRAYS = {
    "pixels": (NUM_CHARACTERS * NUM_DRAWINGS, EXTENT * EXTENT // 8),
    "names": (NUM_CHARACTERS,),
    "background": (NUM_CHARACTERS,),
}


def omniglot(
    data_dir: str | None = None,
    split: str = "reference",
    validation_characters: int = 0,
    rotations: bool = True,
    seed: int = 0,
    cache_dir: str | None = None,
) -> Splits:
    """Loads Omniglot: 1,623 characters with 20 drawings each, 28 by 28.

    Decoded once and kept as 3 MB on disk; a later call takes a second.

    Args:
        data_dir: Where TFDS keeps its data; `None` is its own default. What
            is not there is downloaded (10 MB).
        split: `"reference"`: all characters shuffled by `seed`, the first
            1,200 to train on and 423 to test on, as the original.
            `"tfds"`: the authors' 964 background characters to train on and
            659 evaluation characters to test on.
        validation_characters: So many characters are taken out of the
            training ones, to choose by: the last of the shuffled list.
            With 0 there is no such set.
        rotations: Whether each training character turned by 90, 180 and 270
            degrees makes three more classes. Others are never turned.
        seed: Of the order of the characters, at least 0; 0 is the
            original's.
        cache_dir: Where the decoded drawings are kept; `None` is
            `~/.cache/keras_reptile`. What is there is used, and `data_dir`
            then not read.

    Returns:
        `Splits(train, validation, test)`; `validation` may be `None`.

    Raises:
        ValueError: If an argument is out of range, or the data is damaged,
            or neither there nor can be downloaded.

    Example:

    ```python
    omniglot = kr.data.omniglot(validation_characters=100)
    omniglot.train.num_classes  # 4400
    ```
    """
    if split not in ("reference", "tfds"):
        raise ValueError(
            '`split` must be "reference", the original\'s, or "tfds", '
            f"background and evaluation. Received: {split!r}."
        )
    check_integer("validation_characters", validation_characters, 0)
    check_integer("seed", seed, 0)
    seed = int(seed)
    drawings, names, background = _load(data_dir, cache_dir)
    if split == "reference":
        train, test = reference_split(len(names), seed)
    else:
        # Shuffled, so that validation is not made of the last alphabets.
        train = np.flatnonzero(background).tolist()
        random.Random(seed).shuffle(train)
        test = np.flatnonzero(~background).tolist()
    if validation_characters >= len(train):
        raise ValueError(
            "`validation_characters` are taken out of the training ones and "
            "must leave some. Received: "
            f"validation_characters={validation_characters}, with "
            f"{len(train)} characters to train on."
        )
    kept = len(train) - validation_characters
    train, validation = train[:kept], train[kept:]
    return Splits(
        _classes(drawings, names, train, turns=4 if rotations else 1),
        _classes(drawings, names, validation) if validation else None,
        _classes(drawings, names, test),
    )


def reference_split(num_characters: int = NUM_CHARACTERS, seed: int = 0):
    """The original's split of the sorted list of `alphabet/characterNN`.

    Returns:
        Two lists of indices, the first 1,200 of the shuffled list and the
        rest.
    """
    order = list(range(num_characters))
    random.Random(seed).shuffle(order)
    return order[:NUM_TRAINING], order[NUM_TRAINING:]


def _classes(drawings, names, indices, turns=1):
    images = drawings[indices]
    turned = [np.rot90(images, turn, axes=(2, 3)) for turn in range(turns)]
    x = np.concatenate(turned).reshape(-1, EXTENT, EXTENT, 1)
    labels = [
        names[i] + (f"/{90 * turn}" if turns > 1 else "")
        for turn in range(turns)
        for i in indices
    ]
    return ClassDataset(x, [NUM_DRAWINGS] * len(labels), labels)


def _load(data_dir, cache_dir):
    """Drawings `(1623, 20, 28, 28)` of 0 and 255, names, and a flag each."""
    stored = cache.load("omniglot-28", cache_dir, _ARRAYS)
    if stored is None:
        stored = _read_tfds(data_dir)
        cache.store("omniglot-28", stored, cache_dir)
    pixels = np.unpackbits(stored["pixels"])
    shape = (NUM_CHARACTERS, NUM_DRAWINGS, EXTENT, EXTENT)
    return (
        pixels.reshape(shape) * np.uint8(255),
        stored["names"].tolist(),
        (stored["background"]),
    )


def _read_tfds(data_dir):
    # Imported here: it takes a second, and a second start does not need it.
    import tensorflow_datasets as tfds

    images, keys, background = [], [], []
    for part in ("train", "test"):
        dataset, info = _open_tfds(tfds, data_dir, part)
        alphabets = info.features["alphabet"].names
        for example in _batches(dataset, info.data_dir):
            small = example["image"][:, _NEAREST][:, :, _NEAREST, 0] > 127
            images.append(small)
            keys += [
                f"{alphabets[alphabet]}/character{number + 1:02d}"
                for alphabet, number in zip(
                    example["alphabet"], example["alphabet_char_id"]
                )
            ]
            background += [part == "train"] * len(small)
    return _grouped(np.concatenate(images), keys, np.asarray(background))


def _open_tfds(tfds, data_dir, part):
    try:
        dataset, info = tfds.load(
            "omniglot", split=part, data_dir=data_dir, with_info=True
        )
    except Exception as error:  # TFDS raises many kinds when it can't reach.
        raise ValueError(
            "Omniglot was not found and could not be downloaded. Received: "
            f"data_dir={data_dir!r}. Either run once where there is a "
            "network, so that TFDS can download it (10 MB), or copy a "
            "prepared folder `omniglot/3.0.0` and pass the folder above it as "
            f"`data_dir`. ({type(error).__name__}: {error})"
        ) from error
    return dataset, info


def _batches(dataset, folder):
    try:
        yield from dataset.batch(500).as_numpy_iterator()
    except Exception as error:  # Of TensorFlow, by what part is damaged.
        raise ValueError(
            f"Expected whole files of Omniglot. Received: {folder}, which "
            "cannot be read to its end. It is truncated or damaged: remove "
            "that folder and call again, so that TFDS prepares it anew, or "
            f"copy it again. ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def _grouped(images, keys, background):
    names, labels, counts = np.unique(
        keys, return_inverse=True, return_counts=True
    )
    if len(names) != NUM_CHARACTERS or (counts != NUM_DRAWINGS).any():
        raise ValueError(
            f"Expected {NUM_CHARACTERS} characters of {NUM_DRAWINGS} drawings "
            f"each. Received: {len(names)} characters of {counts.min()} to "
            f"{counts.max()}. The prepared data is incomplete: remove it and "
            "let TFDS prepare it again."
        )
    packed = np.packbits(images.reshape(len(images), -1), axis=1)
    # By class, then by content: the same order wherever it was prepared.
    order = np.lexsort((*packed.T[::-1], labels))
    first = order[::NUM_DRAWINGS]
    return {
        "pixels": packed[order],
        "names": names,
        "background": background[first],
    }

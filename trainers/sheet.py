"""Draws a sheet of scribbles (left) beside one of Omniglot (right).

Usage:
    python -m trainers.sheet --output=docs/sheet.png

A row is a class; its pictures are ten drawings of it.
"""

import os
import pathlib

import numpy as np
import tensorflow as tf
from absl import flags

import keras_reptile as kr
from keras_reptile import files
from trainers import common, omniglot_folder, usage

flags.declare_key_flag("seed")
flags.adopt_module_key_flags(omniglot_folder)

_OUTPUT = flags.DEFINE_string("output", "sheet.png", "Where the PNG goes.")
_ROWS, _COLUMNS, _SCALE = 12, 10, 2


def sheet(classes: kr.data.ClassDataset) -> np.ndarray:
    """The first classes as rows of framed drawings, uint8."""
    rows = []
    for index in range(_ROWS):
        drawings = classes.examples(index)[:_COLUMNS, ..., 0]
        framed = np.pad(drawings, ((0, 0), (1, 1), (1, 1)), constant_values=200)
        rows.append(np.concatenate(list(framed), axis=1))
    return np.concatenate(rows)


def main():
    usage.refuse_flags("logdir", "resume", "strategy", "devices")
    left = sheet(kr.data.scribbles(_ROWS, seed=common.SEED.value))
    right = sheet(kr.data.omniglot(omniglot_folder.DATA_DIR.value).test)
    gap = np.full((len(left), 12), 255, np.uint8)
    image = np.concatenate([left, gap, right], axis=1)
    image = image.repeat(_SCALE, 0).repeat(_SCALE, 1)[..., np.newaxis]
    output = pathlib.Path(os.path.expanduser(_OUTPUT.value))
    output.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(output) as file:
        file.write(tf.io.encode_png(image).numpy())


if __name__ == "__main__":
    usage.run(main)

"""A small tree of images, laid out as mini-ImageNet is."""

import numpy as np
import tensorflow as tf

from keras_reptile.data.mini_imagenet_classes import WNIDS

EXTENT = 84
SIZES = ((60, 91), (84, 84), (100, 75), (37, 160))


def picture(rng, height, width, channels=3):
    """Smooth patches, as JPEG can hold them."""
    small = rng.integers(0, 256, (height // 9 + 2, width // 9 + 2, channels))
    large = tf.image.resize(small, (height, width), method="bilinear")
    return np.asarray(large).astype("uint8")


def write_tree(root, classes=2, images=3, seed=0):
    """A tree of the paper's first classes, with images of several shapes."""
    rng = np.random.default_rng(seed)
    for split, wnids in WNIDS.items():
        for wnid in wnids[:classes]:
            folder = root / split / wnid
            folder.mkdir(parents=True)
            for i in range(images):
                image = picture(rng, *SIZES[i % len(SIZES)])
                content = tf.io.encode_jpeg(image).numpy()
                (folder / f"{wnid}_{i}.JPEG").write_bytes(content)
    return root


def one(tree, split="train", number=0):
    return sorted(tree.glob(f"{split}/*/*.JPEG"))[number]

"""The networks of the paper as plain Keras models.

Source: Nichol, Achiam & Schulman 2018, section 6.1 and appendix A; the
original's `models.py` for the order of the layers.
"""

import keras
from keras import layers

# Whatever `keras.config` says: that is what episodes are.
_LAST = {"data_format": "channels_last"}


def omniglot_cnn(ways: int, filters: int = 64) -> keras.Model:
    """The Omniglot network: four strided convolutions and a dense layer.

    Args:
        ways: Classes per episode, the width of the output.
        filters: Channels of each convolution; 64 in the paper.

    Returns:
        A built model from `(batch, 28, 28, 1)` to logits `(batch, ways)`.
        With 5 ways it has 113,221 trainable weights.

    Example:

    ```python
    model = kr.MetaModel(kr.models.omniglot_cnn(ways=5))
    ```
    """
    x = inputs = keras.Input((28, 28, 1))
    for _ in range(4):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", **_LAST)(x)
        x = layers.BatchNormalization(epsilon=1e-3)(x)
        x = layers.ReLU()(x)
    outputs = layers.Dense(ways)(layers.Flatten(**_LAST)(x))
    return keras.Model(inputs, outputs, name="omniglot_cnn")


def mini_imagenet_cnn(ways: int, filters: int = 32) -> keras.Model:
    """The mini-ImageNet network: four convolutions, each with max pooling.

    Pooling is padded ("same"), so the extents are 84, 42, 21, 11 and 6.

    Args:
        ways: Classes per episode, the width of the output.
        filters: Channels of each convolution; 32 in the paper.

    Returns:
        A built model from `(batch, 84, 84, 3)` to logits `(batch, ways)`.
        With 5 ways it has 34,661 trainable weights.
    """
    x = inputs = keras.Input((84, 84, 3))
    for _ in range(4):
        x = layers.Conv2D(filters, 3, padding="same", **_LAST)(x)
        x = layers.BatchNormalization(epsilon=1e-3)(x)
        x = layers.MaxPooling2D(2, padding="same", **_LAST)(x)
        x = layers.ReLU()(x)
    outputs = layers.Dense(ways)(layers.Flatten(**_LAST)(x))
    return keras.Model(inputs, outputs, name="mini_imagenet_cnn")

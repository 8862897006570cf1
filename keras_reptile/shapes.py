"""What a Keras model must be, and what it takes and gives: their shapes."""

import keras
import tensorflow as tf

from keras_reptile.lowering import lowered


def check_model(model) -> None:
    """Refuses what is not a built Keras model with something to train.

    Raises:
        ValueError: That says what is missing.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a keras.Model. Received: {type(model).__name__}."
        )
    if not model.built:
        raise ValueError(
            "`model` must be built, so that its weights exist and can be "
            f"cloned for each task. Received: unbuilt model '{model.name}'. "
            "Give its first layer an input shape, or call it once on an "
            "example."
        )
    _check_one_input_and_output(model)
    _check_kinds_of_layer(model)
    if not model.trainable_variables:
        raise ValueError(
            "`model` must have weights to train. Received: model "
            f"'{model.name}' with none that is trainable. A subclassed model "
            "makes its weights when it is called on an example."
        )


def _check_kinds_of_layer(model: keras.Model) -> None:
    """Refuses what is trained otherwise than by a gradient in its weights.

    Raises:
        ValueError: That names the layers.
    """
    for layer in model._flatten_layers():
        # TensorFlow recomputes for gradients in variables, and here are none.
        if getattr(layer, "_remat_mode", None) is not None:
            raise ValueError(
                "Layers made in a RematScope get no gradient inside of an "
                f"inner loop. Received: layer '{layer.name}' of model "
                f"'{model.name}'. Make the model outside of it."
            )
    for variable in model.trainable_variables:
        if getattr(variable, "overwrite_with_gradient", False):
            raise ValueError(
                "Every trainable variable must be one that an optimizer moves. "
                f"Received: {variable.path} of model '{model.name}', which "
                "float8 replaces by its gradient. Use a model that is not "
                "quantized."
            )


def _check_one_input_and_output(model: keras.Model) -> None:
    """Refuses a functional model with several inputs or outputs.

    Raises:
        ValueError: That names how many there are.
    """
    for name in ("input", "output"):
        tensors = getattr(model, f"{name}s", None)
        if tensors is not None and len(tensors) != 1:
            raise ValueError(
                f"`model` must have one {name}. Received: model "
                f"'{model.name}' with {len(tensors)} {name}s. Build a model "
                "of one input and one output, with the others fixed or left "
                "out."
            )
    if isinstance(getattr(model, "output", None), dict):
        raise ValueError(
            "`model` must give one tensor. Received: model "
            f"'{model.name}', which gives a dictionary. Build it on the "
            "tensor itself."
        )


def example_shape(model: keras.Model) -> tuple | None:
    """The shape of one example, or `None` where only the data can tell.

    Functional and sequential models know it; a subclassed one need not.
    """
    inputs = getattr(model, "inputs", None)
    return tuple(inputs[0].shape[1:]) if inputs else None


def batch_built_with(model: keras.Model) -> tf.TensorSpec | None:
    """Two examples of the shape a model was built with, if it is known."""
    shape, dtype = example_shape(model), "float32"
    if shape is None:
        built_with = (model.get_build_config() or {}).get("input_shape")
        # A model's own `build` may keep anything under this name.
        is_shape = isinstance(built_with, (list, tuple)) and all(
            extent is None or isinstance(extent, int) for extent in built_with
        )
        shape = tuple(built_with[1:]) if is_shape else None
    else:
        dtype = model.inputs[0].dtype
    if shape is None or None in shape:
        return None
    return tf.TensorSpec((2, *shape), dtype)


def takes_integers(model: keras.Model) -> bool:
    """Whether the model says that its input is of integers, such as tokens."""
    inputs = getattr(model, "inputs", None)
    return bool(inputs) and "int" in inputs[0].dtype


def output_shape(model: keras.Model, of_example: tuple) -> tuple:
    """The shape of the output for one example.

    Args:
        model: A built model.
        of_example: Shape of an example, which a subclassed model needs.

    Raises:
        ValueError: If the model does not take such examples, or gives
            anything else than one tensor.
    """
    outputs = getattr(model, "outputs", None)
    if outputs:
        return tuple(outputs[0].shape[1:])
    example = keras.KerasTensor((None, *of_example), dtype="float32")
    try:
        with lowered(model, compiled=False):
            output = model.compute_output_spec(example)
    except Exception as error:  # A user's `call` raises anything.
        raise ValueError(
            f"Model '{model.name}' could not be called on examples of shape "
            f"{tuple(of_example)}: {error}"
        ) from error
    if not isinstance(output, keras.KerasTensor):
        raise ValueError(
            "`model` must give one tensor. Received: model "
            f"'{model.name}', which gives {type(output).__name__}."
        )
    return tuple(output.shape[1:])


def width(model: keras.Model, of_example: tuple) -> int:
    """The number of classes that a classifier tells apart.

    Raises:
        ValueError: If the output has no axis of classes.
    """
    shape = output_shape(model, of_example)
    if not shape:
        raise ValueError(
            "For labels, the model must give a value for each class. "
            f"Received: model '{model.name}', which gives one number per "
            "example. End it with a Dense layer of `ways` units."
        )
    return shape[-1]


def matches(expected: tuple | None, received: tuple) -> bool:
    """Whether an example's shape is the one expected, where that is known."""
    if expected is None:
        return True
    return len(expected) == len(received) and all(
        e is None or e == r for e, r in zip(expected, received)
    )

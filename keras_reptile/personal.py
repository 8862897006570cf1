"""A plain Keras model out of an adapted state."""

import collections

import keras
import tensorflow as tf
from absl import logging

from keras_reptile import checks, meta_update
from keras_reptile.episodes import EpisodeSpec, Examples, Task, draw_batches
from keras_reptile.inner_step import State
from keras_reptile.integers import check_integer
from keras_reptile.model_call import training_argument


def support_task(learner, x, y, steps, batch_size, seed) -> Task:
    """A task out of one's own examples, with nothing to ask of it.

    Args:
        learner: A `Learner`, whose model and loss say what suits them.
        x: Support examples.
        y: Their labels.
        steps: Inner steps.
        batch_size: Examples per step; `None` takes all of them.
        seed: Of the order in which batches are drawn.

    Raises:
        ValueError: If the examples do not suit the model.
    """
    x, y = checks.checked_support(x, y, learner.model, learner.loss_function)
    check_integer("steps", steps, 1)
    check_integer("seed", seed, 0)
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
        if batch_size > len(x):
            raise ValueError(
                "`batch_size` must not be larger than the support set. "
                f"Received: batch_size={batch_size}, and {len(x)} examples."
            )
    # The classes need not have equally many examples: only the sum matters.
    spec = EpisodeSpec(
        ways=1,
        shots=len(x),
        queries=0,
        inner_steps=steps,
        inner_batch_size=batch_size,
    )
    key = tf.constant([0, seed], tf.int64)
    support = Examples(tf.constant(x), tf.constant(y))
    return Task(support, support, draw_batches(spec, key))


def personal_model(model: keras.Model, state: State, x) -> keras.Model:
    """Copies a model, with adapted weights and batch norm fixed on `x`.

    Args:
        model: The inner model, which is not changed.
        state: Its adapted state.
        x: Support examples; batch normalisation of the copy keeps their
            statistics as its moving averages.

    Returns:
        A plain `keras.Model` that predicts each example by itself.

    Raises:
        ValueError: If the model cannot be copied, the inner loop diverged, or
            a batch normalisation is used at several places.
    """
    if not meta_update.all_finite(state.weights):
        raise ValueError(
            "The inner loop of `adapt` ended in NaN or infinity. Received: "
            f"model '{model.name}' and {len(x)} examples. Compile it with a "
            "lower learning rate of the inner optimizer, or take fewer `steps`."
        )
    copy = _copied(model, x)
    _assign(model, copy, state)
    _fix_batch_norm(copy, x)
    return copy


def _copied(model, x):
    try:
        if getattr(model, "inputs", None):
            # Layer by layer, which finds a user's layers without a registry.
            copy = keras.models.clone_model(model, clone_function=_twin)
        else:
            copy = type(model).from_config(model.get_config())
        copy(x[:1])  # Which builds it, where it is not.
    except Exception as error:  # A user's methods raise anything.
        raise _no_copy(model, f"{type(error).__name__}: {error}") from error
    for layer, twin in zip(model._flatten_layers(), copy._flatten_layers()):
        twin.trainable = layer.trainable
    ours, theirs = (
        [tuple(variable.shape) for variable in m.variables]
        for m in (model, copy)
    )
    if ours != theirs:
        raise _no_copy(
            model,
            f"its copy has variables of shapes {theirs}; a layer that is used "
            "inside a nested model and outside of it is copied twice",
        )
    return copy


def _twin(layer):
    # Keras makes none of a configuration, as one of a file might do harm.
    if type(layer) is keras.layers.Lambda:
        return keras.layers.Lambda(
            layer.function,
            layer._output_shape,
            layer.mask,
            layer.arguments,
            name=layer.name,
            dtype=layer.dtype_policy,
        )
    return type(layer).from_config(layer.get_config())


def warn_unless_copied(model) -> None:
    """Says so where `adapt` will refuse a model, before it is trained.

    Args:
        model: A built model. One of layers is copied layer by layer, and not
            asked about here.
    """
    if getattr(model, "inputs", None):
        return
    try:
        model.get_config()
    except Exception as error:  # A user's method raises anything.
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        logging.warning(
            "`adapt` will not be able to copy the model %s, which has no "
            "`get_config` that holds every argument. (%s)",
            type(model).__name__,
            reason,
        )


def _no_copy(model, reason):
    return ValueError(
        "`adapt` gives a copy of the model, so the model must be one that "
        f"Keras can copy. Received: {type(model).__name__}. Give it a "
        f"`get_config` that holds every argument. ({reason})"
    )


def _assign(model, copy, state):
    """Gives the copy what was learned, and what the model keeps besides."""
    pairs = (
        (model.trainable_variables, state.weights),
        (model.non_trainable_variables, state.buffers),
    )
    learned = {
        id(variable): value
        for variables, values in pairs
        for variable, value in zip(variables, values)
    }
    for variable, twin in zip(model.variables, copy.variables):
        twin.assign(learned.get(id(variable), variable))
    for layer in copy._flatten_layers():
        if hasattr(layer, "finalize_state"):  # keras.layers.Normalization
            layer.finalize_state()


def _fix_batch_norm(model, x):
    """Sets moving averages to the statistics that `x` has, layer by layer."""
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
    ]
    momenta = [layer.momentum for layer in norms]
    uses = collections.Counter()
    try:
        for layer in norms:
            layer.momentum = 0.0
            layer.__dict__["call"] = _with_batch_statistics(layer, uses)
        if norms:
            # Dropout stays off.
            model(x, **training_argument(model, False))
    finally:
        for layer, momentum in zip(norms, momenta):
            layer.momentum = momentum
            layer.__dict__.pop("call", None)
    # By id, as blocks that were cloned have layers of one name.
    if several := [layer.name for layer in norms if uses[id(layer)] > 1]:
        raise ValueError(
            "A batch normalisation keeps one mean, so that it can be used at "
            f"one place of a model. Received: {', '.join(several)}, used more "
            "than once. Give each place, or time step, a layer of its own."
        )


def _with_batch_statistics(layer, uses):
    def call(inputs, training=None, mask=None):
        uses[id(layer)] += 1
        return type(layer).call(layer, inputs, training=True, mask=mask)

    return call

"""Few-shot accuracy on many episodes of held-out classes.

Each episode adapts from the trained weights *and* the trained slots of the
inner optimizer, and leaves no trace of itself (as the original's `evaluate`,
which shares Adam's statistics on purpose).

Two ways to score the query examples, which give different numbers because
batch normalisation takes the statistics of what it is given:

- `"inductive"`: each query example goes through the network together with
  the support set only, so its prediction does not depend on the others.
- `"transductive"`: all query examples go through the network together, so
  each is helped by the others. The paper reports both.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_reptile import (
    checks,
    distribution,
    fit_checks,
    loss_checks,
    meta_update,
    settings,
    shapes,
    worker_checks,
)
from keras_reptile.data.classes import ClassDataset
from keras_reptile.episodes import unstack
from keras_reptile.fixed_labels import check_evaluated
from keras_reptile.inner_variables import selected
from keras_reptile.protocol import Protocol
from keras_reptile.scores import Scores

# Episodes in one call: they run side by side, and the cores stay busy.
_AT_ONCE = 10


def evaluate(
    model: keras.Model,
    classes: ClassDataset,
    protocol: Protocol,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Scores] | None:
    """Measures few-shot accuracy; the model is left bitwise as it is.

    All answers of an inner loop that ends in NaN or infinity are wrong; the
    log says of how many episodes that is so.

    Args:
        model: A compiled `MetaModel`.
        classes: Classes to draw episodes from, not those trained on. Where
            labels were fixed in training (`kr.data.from_groups`), they must
            be the same.
        protocol: What an episode is, how many, and which modes.
        stop: A function without arguments that is asked every few episodes
            whether to give up.

    Returns:
        `Scores` by mode, in the order of `protocol.modes`; `None` if it was
        given up.

    Raises:
        ValueError: If the classes cannot give such episodes, the model's
            output is not `ways` wide, or an argument is something else; if
            labels are not those that the model has learned; or if another
            worker evaluates otherwise.

    Example:

    ```python
    scores = kr.evaluate(model, omniglot.test, kr.Protocol(ways=5, shots=1))
    print(scores["inductive"])  # Such as 95.41 +- 0.57 % (1000 episodes).
    ```
    """
    check_protocol(model, classes, protocol)
    check_evaluated(model, getattr(classes, "labels", None))
    strategy = model.distribute_strategy
    given = settings.of_protocol(protocol, classes)
    worker_checks.check_same(strategy, given)
    at_once = _AT_ONCE * strategy.num_replicas_in_sync
    # Negative seeds, which no training stream has.
    stream = classes.stream(
        protocol.spec, meta_batch_size=at_once, seed=-1 - protocol.seed
    )
    count = protocol.num_episodes
    calls = -(-count // at_once)
    score = _scoring_function(model, protocol, at_once)
    episodes = iter(distribution.share(stream, strategy, calls))
    hits = {key: [] for key in ("before", "failed", *protocol.modes)}
    for call in range(calls):
        if stop is not None and stop():
            return None
        first = tf.constant(call * at_once, tf.int64)
        for key, values in score(next(episodes), first).items():
            hits[key].append(values)
    hits = {k: np.concatenate(parts)[:count] for k, parts in hits.items()}
    before = float(hits.pop("before").mean())
    if failed := int(hits.pop("failed").sum()):
        logging.warning(
            "The inner loops of %d of %d episodes ended in NaN or infinity, "
            "which counts as wrong. Lower the learning rate of the inner "
            "optimizer, or the `inner_steps` of the Protocol.",
            failed,
            count,
        )
    return {mode: Scores(hits[mode], before) for mode in protocol.modes}


def check_protocol(model, classes: ClassDataset, protocol: Protocol) -> None:
    """Refuses what cannot be evaluated, before time is spent on it.

    Raises:
        ValueError: As `evaluate` says.
    """
    if not hasattr(model, "require_compiled"):
        raise ValueError(
            "Few-shot accuracy is measured of a compiled MetaModel. Received: "
            f"{type(model).__name__}. Wrap the model in kr.MetaModel and "
            "call `compile`."
        )
    model.require_compiled()
    check_kinds(classes, protocol)
    fit_checks.check_same_variables(model)
    selected(model.inner_model, protocol.inner_variables)
    checks.check_shape(classes.example_shape, model.inner_model)
    checks.check_ways(protocol.ways, model.inner_model, classes.example_shape)
    model.check_layers_on(classes.example_shape, "float32")
    classes.check(protocol.spec)
    loss = model.learner.loss_function
    if shapes.takes_integers(model.inner_model) or loss.takes_probabilities:
        x = classes.episode(protocol.spec).support.x.numpy()
        checks.check_examples(x, model.inner_model, "classes")
        loss_checks.check_probabilities(x, model.inner_model, loss)
    labels = np.arange(protocol.ways, dtype="int32")
    example = classes.example_shape
    loss_checks.check_loss(labels, example, model.inner_model, loss)


def check_kinds(classes, protocol) -> None:
    """Refuses what is no set of classes, or no protocol.

    Raises:
        ValueError: That says what to pass.
    """
    needed = ("check", "example_shape", "stream")
    if not all(hasattr(classes, name) for name in needed):
        raise ValueError(
            "Episodes are drawn from a ClassDataset, such as `.test` of what "
            "kr.data.omniglot returns. Received: "
            f"{type(classes).__name__}. Arrays of your own become one by "
            "kr.data.from_arrays; tasks of a regression, which have no "
            "accuracy, are for `model.evaluate`, or for `validation_data` and "
            "`validation_steps` of `fit`."
        )
    if not isinstance(protocol, Protocol):
        raise ValueError(
            "How to evaluate is said by a kr.Protocol(ways, shots, ...). "
            f"Received: {type(protocol).__name__}."
        )


def predict_inductive(learner, state, task) -> tf.Tensor:
    """Outputs for each query example, given the support set alone.

    Args:
        learner: A `Learner`.
        state: An adapted state.
        task: One episode, with q query examples.

    Returns:
        Shape `(q, ways)`.
    """

    def one(x):
        batch = tf.concat([task.support.x, x[tf.newaxis]], 0)
        return tf.cast(learner.predict(state, batch)[-1], tf.float32)

    return tf.map_fn(one, task.query.x, fn_output_signature=tf.float32)


def predict_transductive(learner, state, task) -> tf.Tensor:
    """Outputs for all query examples in one pass, shape `(q, ways)`."""
    return learner.predict(state, task.query.x)


_PREDICTIONS = {
    "inductive": predict_inductive,
    "transductive": predict_transductive,
}


def _scoring_function(model, protocol, at_once):
    learner, modes = model.learner, protocol.modes
    strategy = model.distribute_strategy
    if protocol.inner_variables is not None:
        learner = learner.restricted(protocol.inner_variables)
    adapts = tuple(learner.adapts)
    adapt = model.compiled_function(("adapt", adapts), learner.adapt)

    def predict_all(state, adapted, task):
        outputs = {"before": learner.predict(state, task.query.x)}
        for mode in modes:
            outputs[mode] = _PREDICTIONS[mode](learner, adapted, task)
        hits = {
            key: tf.reduce_mean(_hits(task.query.y, output))
            for key, output in outputs.items()
        }
        # TensorFlow's fused ReLU makes 0 of NaN, so that outputs may be finite
        # where weights are not.
        failed = ~meta_update.all_finite(adapted.weights)
        hits |= {mode: tf.where(failed, 0.0, hits[mode]) for mode in modes}
        for mode in modes:
            failed |= tf.reduce_any(_has_nan(outputs[mode]))
        hits["failed"] = tf.cast(failed, tf.float32)
        return hits

    predict_all = model.compiled_function(("predict_all", modes), predict_all)

    # A function of its own, so that it is traced once and not ten times.
    def score_one(state, task):
        return predict_all(state, adapt(state, task), task)

    one = model.compiled_function(
        ("score_one", modes, adapts), score_one, jit=False
    )

    def score_many(tasks, first):
        state, results = model.initial_state(), []
        numbers = first + distribution.numbers_here(at_once, _AT_ONCE)
        for t, task in enumerate(unstack(tasks)):
            results.append(one(learner.with_seed(state, numbers[t]), task))
        stacked = [tf.stack([r[k] for r in results]) for k in results[0]]
        whole = distribution.gathered(stacked)
        return dict(zip(results[0], whole))

    def on_all_replicas(tasks, first):
        scores = strategy.run(score_many, args=(tasks, first))
        # The same on all.
        return {
            k: strategy.experimental_local_results(v)[0]
            for k, v in scores.items()
        }

    return model.compiled_function(
        ("score", modes, adapts), on_all_replicas, jit=False
    )


def _hits(labels, outputs):
    predicted = tf.argmax(outputs, -1, output_type=tf.int32)
    # The argmax of NaN is the first class, which would be right by chance.
    right = (predicted == tf.cast(labels, tf.int32)) & ~_has_nan(outputs)
    return tf.cast(right, tf.float32)


def _has_nan(outputs):
    return tf.reduce_any(tf.math.is_nan(outputs), -1)

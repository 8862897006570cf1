"""What of Keras has to be replaced for `fit` under `tf.distribute`.

Each of these is private to Keras, and is replaced here only.
tests/test_distribution.py and tests/test_many_workers.py fail where a new
Keras changes them, or no longer needs it.

- `_maybe_symbolic_build`: Keras' own takes the mean over replicas of the first
  tasks, labels as well, which fails under several workers (keras#20585).
- `_make_function`: Keras' own calls a replica inside `tf.cond`, by which
  `steps_per_execution` fails under several replicas (keras#19246), and adds
  up what workers report along an axis that scalars have not (keras#20585).
- `_all_reduce_sum_gradients` of an optimizer: the meta-gradient is summed
  together with the inner slots, in one reduction, before it comes there.
"""

import tensorflow as tf


class FitUnderStrategies:
    """What a `MetaModel` has in place of methods of `keras.Model`."""

    def _make_function(self, step_function):
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return super()._make_function(step_function)
        return make_function(self, step_function)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing: all is built by `compile`, and a Task is no input."""


def make_function(model, step):
    """In place of `keras.Model._make_function`.

    Args:
        model: A `MetaModel` of several replicas.
        step: Its `train_step` or `test_step`, without logs of its own.

    Returns:
        A function of an iterator, which takes `steps_per_execution` steps and
        returns the logs so far, of all replicas.
    """
    strategy, steps = model.distribute_strategy, model.steps_per_execution

    def one(iterator):
        strategy.run(step, args=(next(iterator),))

    def several(iterator):
        if model.run_eagerly or steps == 1:
            for _ in range(steps):
                one(iterator)
        else:
            tf.while_loop(
                lambda i: i < steps,
                lambda i: (one(iterator), i + 1)[1:],
                (tf.constant(0),),
                parallel_iterations=1,
            )
        logs = strategy.run(model.logs_of_all_replicas)
        return {
            name: strategy.experimental_local_results(value)[0]
            for name, value in logs.items()
        }

    if model.run_eagerly:
        return several
    return tf.function(several, reduce_retracing=True, autograph=False)


def prepare(optimizer, strategy) -> None:
    """Has an optimizer apply gradients that are summed over replicas already.

    Args:
        optimizer: A Keras optimizer, changed in place where there are
            several replicas.
        strategy: The strategy of the model it updates.

    Raises:
        ValueError: If it was made for another strategy.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    if optimizer._distribution_strategy is not strategy:
        raise ValueError(
            "The outer optimizer must be made under the strategy of the model "
            f"it updates. Received: {type(optimizer).__name__} made outside "
            f"of the scope of {type(strategy).__name__}. Make it inside `with "
            "strategy.scope():`."
        )
    optimizer._all_reduce_sum_gradients = list

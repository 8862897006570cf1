"""MetaModel: a Keras model that learns to learn, trained by `fit`.

A meta-step adapts a copy of the weights to each task of the batch, as pure
functions that run side by side, and gives the mean of the algorithm's
meta-gradients to the outer optimizer.

Source: Nichol, Achiam & Schulman 2018, Algorithm 2.
"""

from collections.abc import Callable

import keras
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_reptile import (
    algorithms,
    distribution,
    fit_checks,
    fixed_labels,
    keras_under_strategies,
    meta_update,
    personal,
    task_running,
)
from keras_reptile.configuring import ConfiguresBothLoops
from keras_reptile.episodes import Task
from keras_reptile.fitting import FitsEpisodes
from keras_reptile.inner_step import State
from keras_reptile.refused_calls import RefusesOtherCalls
from keras_reptile.saving import SavesBothLoops
from keras_reptile.shapes import check_model
from keras_reptile.stateless import is_learning_rate

INNER_STATES = meta_update.INNER_STATES


@keras.saving.register_keras_serializable(package="keras_reptile")
class MetaModel(
    SavesBothLoops,
    ConfiguresBothLoops,
    FitsEpisodes,
    RefusesOtherCalls,
    fixed_labels.KnowsLabels,
    keras_under_strategies.FitUnderStrategies,
    keras.Model,
):
    """Meta-trains a Keras model on episodes.

    In the inner loop and in evaluation batch normalisation takes the statistics
    of the batch at hand, whatever `training` its layer is called with; a frozen
    layer keeps its moving averages.

    Args:
        model: Any built `keras.Model`. It is trained in place: its weights
            are the initialisation that is learned.
        algorithm: A name of `kr.algorithms.names()`, or a function
            `(learner, state, task) -> (meta_gradient, adapted_state)`.
        inner_state: What becomes of the inner optimizer's slots.
            `"average"`: every task of a meta-batch starts from the same
            slots and the mean is kept, so that they can run side by side.
            `"accumulate"`: likewise, but they are put together as if the
            tasks had come one after another, each with the gradients that
            it had: they forget as fast as carried ones, and are of as many
            tasks. The optimizer's counter goes up by the steps of them all,
            as when carried. For slots that are known to be linear: of SGD,
            Adam, AdamW, Lamb, RMSprop, Adagrad and Lion.
            `"carry"`: from task to task, one after another, as the original.
            `"reset"`: every task starts with a new optimizer.
        name: The model's name.

    Raises:
        ValueError: If the model is not built, has several inputs or outputs,
            or is a MetaModel itself, or a name is unknown.

    Example:

    ```python
    model = kr.MetaModel(kr.models.omniglot_cnn(ways=5))
    model.compile(
        optimizer=keras.optimizers.SGD(kr.schedules.linear(1.0, 0.0, 3_000)),
        inner_optimizer=keras.optimizers.Adam(1e-3, beta_1=0.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(classes.episodes(spec, meta_batch_size=5), steps_per_epoch=3_000)
    personal = model.adapt(x_support, y_support)
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        algorithm: str | Callable = "reptile",
        inner_state: str = "average",
        name: str | None = None,
    ):
        check_model(model)
        if isinstance(model, MetaModel):
            raise ValueError(
                "`model` is the one that adapts to tasks. Received: "
                f"'{model.name}', which is a MetaModel. Wrap its `inner_model`."
            )
        if inner_state not in INNER_STATES:
            raise ValueError(
                f"`inner_state` must be one of {INNER_STATES}. Received: "
                f"{inner_state!r}."
            )
        super().__init__(name=name or f"meta_{model.name}")
        self.inner_model = model
        self.algorithm = algorithms.get(algorithm)
        self.inner_state = inner_state
        # Without this, `fit` would build by calling the model on a Task.
        self.built = True

    @property
    def meta_step(self) -> int:
        """Meta-steps taken so far, over all `fit`s."""
        self.require_compiled()
        return int(tf.convert_to_tensor(self.optimizer.iterations.value))

    @property
    def tasks_per_step(self) -> int:
        """Tasks of a meta-step, those of all replicas, as last in `fit`."""
        return self._fit_spec.batches.shape[0]

    @property
    def metrics(self):
        return self._task_metrics.all if self.compiled else []

    def get_metrics_result(self) -> dict:
        """What Keras logs at the end of an epoch or an evaluation."""
        results = {}
        for name, result in self.logs_so_far().items():
            results |= result if isinstance(result, dict) else {name: result}
        return results

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """The inner model's outputs with the weights as they stand.

        Batch normalisation takes its moving averages, which meta-training
        leaves at their initial values. Use `adapt` for a model that predicts.
        """
        return self.inner_model(x, training=training)

    def train_step(self, tasks: Task) -> dict:
        """One meta-step: adapt to every task, then the outer update."""
        step = tf.cast(self.optimizer.iterations.value, tf.int64)
        numbers, real, first = self._numbers(tasks, self._fit_spec)
        before = self.initial_state().slots
        gradients, adapted = zip(
            *task_running.run(
                self, self.algorithm, tasks, step * first + numbers
            )
        )
        gradient, slots, counted = meta_update.update(
            gradients,
            [state.slots for state in adapted],
            real,
            numbers,
            self.inner_state,
            before,
            self.learner.fresh_slots,
            self._slot_decays,
        )
        # Which divides by its scale, if it has one, as after `scale_loss`.
        gradient = [self.optimizer.scale_loss(part) for part in gradient]
        self.optimizer.apply(gradient, self.inner_model.trainable_variables)
        for variable, slot in zip(self.inner_optimizer.variables, slots):
            # Which a mean would round.
            if not is_learning_rate(variable):
                variable.assign(slot)
        return self._logs(tasks, adapted, real, counted)

    def test_step(self, tasks: Task) -> dict:
        """Adapts to every task and reports; leaves no trace."""
        numbers, real, _ = self._numbers(tasks, self._evaluate_spec)
        results = task_running.run(
            self, task_running.adapt_only, tasks, numbers
        )
        adapted = [state for _, state in results]
        finite = [meta_update.all_finite(state.weights) for state in adapted]
        return self._logs(tasks, adapted, real, real & tf.stack(finite))

    def logs_so_far(self) -> dict:
        """The metrics of the tasks since the epoch began, by name."""
        return self._task_metrics.results()

    def logs_of_all_replicas(self) -> dict:
        """`logs_so_far`, for a replica that knows its own tasks only."""
        return self._task_metrics.results(distribution.sum_over_replicas)

    def _numbers(self, tasks, spec):
        """Of this replica's tasks: numbers, which are real; and of how many."""
        here = tasks.batches.shape[0]
        replicas = self.distribute_strategy.num_replicas_in_sync
        count = here if replicas == 1 else spec.batches.shape[0]
        numbers = distribution.numbers_here(count, here)
        return numbers, numbers < count, count

    def adapt(
        self,
        x: ArrayLike,
        y: ArrayLike,
        steps: int = 50,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> keras.Model:
        """Learns new classes from a few examples.

        Runs the inner loop of training from the trained weights and slots,
        and leaves this model as it is. Batch normalisation of the result
        holds the statistics of the support examples, so that one prediction
        does not depend on others asked for at the same time.

        Args:
            x: Support examples, floats of shape `(n, ...)`, in the units that
                the episodes had (images of uint8 divided by 255).
            y: Their targets. Labels are integers of shape `(n,)`, from 0 to
                the width of the output - 1; or names of `labels`, where these
                were fixed in training (`kr.data.from_groups`).
            steps: Inner steps.
            batch_size: Examples per step; `None` takes all of them.
            seed: Of the order in which batches are drawn.

        Returns:
            A plain `keras.Model`, not compiled, that predicts the classes.
            For a few examples `personal(x, training=False)` is faster than
            its `predict`, which is traced for each model anew.

        Raises:
            ValueError: If the examples do not suit the model, it cannot be
                copied, or the inner loop diverges.
        """
        self.require_compiled()
        fit_checks.check_same_variables(self)
        y = fixed_labels.numbered(y, self.labels)
        task = personal.support_task(
            self.learner, x, y, steps, batch_size, seed
        )
        if self.learner.loss_function.takes_labels:
            fixed_labels.warn_of_missing(task.support.y.numpy(), self.labels)
        self.check_layers_on(task.support.x.shape[1:], task.support.x.dtype)
        adapt = self.compiled_function(
            ("adapt", tuple(self.learner.adapts)), self.learner.adapt
        )
        adapted = adapt(self.initial_state(), task)
        return personal.personal_model(
            self.inner_model, adapted, task.support.x
        )

    def initial_state(self) -> State:
        """The state from which a task starts, for evaluation and `adapt`."""
        state = self.learner.state()
        if self.inner_state == "reset":
            state = self.learner.with_fresh_slots(state)
        return state

    def compiled_function(
        self, key: object, function: Callable, jit: bool | None = None
    ) -> Callable:
        """A function, compiled once per `compile`.

        Args:
            key: Under which it is kept.
            function: Taken as it is where all runs eagerly.
            jit: Whether XLA compiles it; `None` as the inner loop.

        Returns:
            The compiled function.
        """
        if self.run_eagerly:
            return function
        if key not in self._compiled_functions:
            self._compiled_functions[key] = tf.function(
                function,
                jit_compile=self.inner_loop_is_compiled if jit is None else jit,
                autograph=False,
            )
        return self._compiled_functions[key]

    def _predict(self, state, x):
        return self.learner.predict(
            state, x, compiled=self.inner_loop_is_compiled
        )

    def _logs(self, tasks, adapted, real, counted):
        predict = self.compiled_function("predict", self._predict)
        self._task_metrics.update(tasks, adapted, predict, real, counted)
        return self.logs_so_far()

"""MetaModel: a Keras model that learns to learn, trained by `fit`.

A meta-step adapts a copy of the weights to each task of the batch, as pure
functions that run side by side, and gives the mean of the algorithm's
meta-gradients to the outer optimizer.

Source: Nichol, Achiam & Schulman 2018, Algorithm 2.
"""

import keras
import tensorflow as tf

from keras_reptile import (
    algorithms,
    compiling,
    distribution,
    fit_checks,
    keras_under_strategies,
    meta_step,
    personal,
    settings,
    task_running,
)
from keras_reptile.fitting import FitsEpisodes
from keras_reptile.learner import Learner, State, check_model
from keras_reptile.metrics import TaskMetrics, as_list
from keras_reptile.saving import SavesBothLoops
from keras_reptile.second_order import check_second_order

INNER_STATES = meta_step.INNER_STATES


@keras.saving.register_keras_serializable(package="keras_reptile")
class MetaModel(
    SavesBothLoops,
    FitsEpisodes,
    keras_under_strategies.FitUnderStrategies,
    keras.Model,
):
    """Meta-trains a Keras model on episodes.

    Args:
        model: Any built `keras.Model`. It is trained in place: its weights
            are the initialisation that is learned.
        algorithm: A name of `kr.algorithms.names()`, or a function
            `(learner, state, task) -> (meta_gradient, adapted_state)`.
        inner_state: What becomes of the inner optimizer's slots.
            `"average"`: every task of a meta-batch starts from the same
            slots and the mean is kept; the tasks run side by side.
            `"carry"`: from task to task, one after another, as the original.
            `"reset"`: every task starts with a new optimizer.
        name: The model's name.

    Raises:
        ValueError: If the model is not built, or a name is unknown.

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
        algorithm="reptile",
        inner_state: str = "average",
        name: str | None = None,
    ):
        check_model(model)
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

    def compile(
        self,
        optimizer=None,
        inner_optimizer=None,
        loss=None,
        metrics=(),
        inner_reduction: str | None = None,
        inner_weight_decay: float = 1.0,
        jit_compile: bool | str = "auto",
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        task_execution: str = "auto",
        tasks_per_chunk: int | None = None,
        inner_variables=None,
        convolution_dtype: str | None = None,
    ):
        """Configures both loops.

        Args:
            optimizer: The outer optimizer. `SGD(e)` is the paper's
                interpolation of step size `e`; the default is `SGD(1.0)`.
            inner_optimizer: Any Keras optimizer that is a pure function of
                its variables; the default is `SGD(0.01)`.
            loss: A Keras loss, its name, or a function of targets and
                outputs that returns one value per example.
            metrics: Keras metrics or their names, of the query examples
                after adaptation.
            inner_reduction: `"sum"` or `"mean"` of the loss over an inner
                batch, `None` for what the loss itself says. The original
                differentiates the sum.
            inner_weight_decay: A factor on every weight before every inner
                step; 1 is no decay.
            jit_compile: Whether the inner loop is compiled by XLA. `"auto"`
                does, but for models with layers that a CPU runs slowly
                inside a compiled loop; the log names them. The outer
                update is never compiled.
            run_eagerly: Runs everything step by step, to debug.
            steps_per_execution: Meta-steps per call, as Keras has it.
            task_execution: `"side_by_side"`, `"one_after_another"` or
                `"vectorized"`, see `keras_reptile.task_running`. `"auto"`
                chooses by device and says so in the log.
            tasks_per_chunk: Tasks in one program, where they are vectorized;
                `None` takes all of a meta-batch.
            inner_variables: Which variables the inner loop adapts: `None`
                for all, `"head"`, `"body"`, `"batch_norm"`, names of layers
                or a function of a variable. Under Reptile and FOML what is
                not adapted is not learned either; under MAML and FOMAML it
                is (head only is then ANIL, body only BOIL).
            convolution_dtype: `"bfloat16"` rounds the factors of the products
                that compiled convolutions are made of, and adds up in
                float32: a third more steps per second on a CPU that
                multiplies bfloat16. The first layer, if it has fewer inputs
                per output than filters, and what is not compiled, such as
                the predictions of `kr.evaluate`, keep float32. `None` is the
                model's own precision.

        Raises:
            ValueError: If the loss is missing, the inner optimizer cannot be
                used as a pure function, or the model or the other arguments
                do not go with an argument.
        """
        self._compile_settings = {
            "optimizer": optimizer or _sgd(1.0),
            "inner_optimizer": inner_optimizer or _sgd(0.01),
            "loss": loss,
            "metrics": as_list(metrics),
            "inner_reduction": inner_reduction,
            "inner_weight_decay": inner_weight_decay,
            "jit_compile": jit_compile,
            "run_eagerly": run_eagerly,
            "steps_per_execution": steps_per_execution,
            "task_execution": task_execution,
            "tasks_per_chunk": tasks_per_chunk,
            "inner_variables": inner_variables,
            "convolution_dtype": convolution_dtype,
        }
        # Both optimizers' variables are to be where the model's are.
        with self.distribute_strategy.scope():
            self._configure(self._compile_settings)

    def _configure(self, given):
        for name in ("optimizer", "inner_optimizer"):
            given[name] = keras.optimizers.get(given[name])
        strategy = self.distribute_strategy
        distribution.check_strategy(
            strategy, self.inner_model, self.inner_state
        )
        compiling.check_outer_optimizer(given["optimizer"])
        keras_under_strategies.prepare(given["optimizer"], strategy)
        self.task_execution = task_running.choose(
            given["task_execution"],
            self.inner_model,
            self.algorithm,
            self.inner_state,
            given["run_eagerly"],
            given["convolution_dtype"],
        )
        self.tasks_per_chunk = given["tasks_per_chunk"]
        task_running.check_chunk(self.tasks_per_chunk, self.task_execution)
        self.inner_loop_is_compiled = compiling.whether_to_jit(
            given["jit_compile"], self.inner_model
        )
        lower = self.inner_loop_is_compiled and not given["run_eagerly"]
        compiling.check_convolution_dtype(
            given["convolution_dtype"], self.inner_model, lower
        )
        self.learner = Learner(
            self.inner_model,
            given["loss"],
            given["inner_optimizer"],
            given["inner_reduction"],
            given["inner_weight_decay"],
            lower,
            given["inner_variables"],
            in_bfloat16=given["convolution_dtype"] is not None,
        )
        check_second_order(self.algorithm, self.learner)
        # Under its own name, so that `.keras` files hold its slots.
        self.inner_optimizer = self.learner.optimizer
        self._task_metrics = TaskMetrics(
            self.learner.loss_function,
            given["metrics"],
            strategy.num_replicas_in_sync,
        )
        self._compiled_functions = {}
        self._fit_spec = self._evaluate_spec = None
        # The loss and metrics stay here: Keras' own would read a Task as
        # (x, y, weight). Compiling all of a step breaks under strategies.
        super().compile(
            optimizer=given["optimizer"],
            run_eagerly=given["run_eagerly"],
            steps_per_execution=given["steps_per_execution"],
            jit_compile=False,
            auto_scale_loss=False,
        )
        self.optimizer.build(self.inner_model.trainable_variables)
        self.trained_paths = [
            v.path for v in self.inner_model.trainable_variables
        ]
        self.settings = settings.of_model(
            self.inner_model,
            {**given, "jit_compile": self.inner_loop_is_compiled},
            self.algorithm,
            self.inner_state,
            self.learner.adapts,
        )

    @property
    def meta_step(self) -> int:
        """Meta-steps taken so far."""
        return int(tf.convert_to_tensor(self.optimizer.iterations.value))

    @property
    def tasks_per_step(self) -> int:
        """Tasks of a meta-step, those of all replicas, as last in `fit`."""
        return self._fit_spec.batches.shape[0]

    @property
    def metrics(self):
        return self._task_metrics.all if self.compiled else []

    def call(self, x, training=None):
        """The inner model's outputs with the weights as they stand.

        Batch normalisation takes its moving averages, which meta-training
        leaves at their initial values: `predict` is for models without. Use
        `adapt` for a model that predicts.
        """
        return self.inner_model(x, training=training)

    def train_step(self, tasks):
        """One meta-step: adapt to every task, then the outer update."""
        step = tf.cast(self.optimizer.iterations.value, tf.int64)
        numbers, real, first = self._numbers(tasks, self._fit_spec)
        before = self.initial_state().slots
        gradients, adapted = zip(
            *task_running.run(
                self, self.algorithm, tasks, step * first + numbers
            )
        )
        gradient, slots, counted = meta_step.update(
            gradients,
            [state.slots for state in adapted],
            real,
            self.inner_state,
            before,
            self.learner.fresh_slots,
        )
        self.optimizer.apply(gradient, self.inner_model.trainable_variables)
        for variable, slot in zip(self.inner_optimizer.variables, slots):
            # A setting among the slots, which a mean would round.
            if variable.name != "learning_rate":
                variable.assign(slot)
        return self._logs(tasks, adapted, real, counted)

    def test_step(self, tasks):
        """Adapts to every task and reports; leaves no trace."""
        numbers, real, _ = self._numbers(tasks, self._evaluate_spec)
        results = task_running.run(
            self, task_running.adapt_only, tasks, numbers
        )
        adapted = [state for _, state in results]
        return self._logs(tasks, adapted, real, real)

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

    def adapt(self, x, y, steps=50, batch_size=None, seed=0) -> keras.Model:
        """Learns new classes from a few examples.

        Runs the inner loop of training from the trained weights and slots,
        and leaves this model as it is. Batch normalisation of the result
        holds the statistics of the support examples, so that one prediction
        does not depend on others asked for at the same time.

        Args:
            x: Support examples, floats of shape `(n, ...)`, in the units that
                the episodes had (images of uint8 divided by 255).
            y: Their targets. Labels are integers of shape `(n,)`, from 0 to
                the width of the output - 1.
            steps: Inner steps.
            batch_size: Examples per step; `None` takes all of them.
            seed: Of the order in which batches are drawn.

        Returns:
            A plain `keras.Model`, not compiled, that predicts the classes.

        Raises:
            ValueError: If the examples do not suit the model, or it cannot
                be copied.
        """
        self.require_compiled()
        fit_checks.check_same_variables(self)
        task = personal.support_task(
            self.learner, x, y, steps, batch_size, seed
        )
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

    def compiled_function(self, key, function, jit=None):
        """`function`, compiled once per `compile` and kept under `key`."""
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


def _sgd(learning_rate):
    return keras.optimizers.SGD(learning_rate)

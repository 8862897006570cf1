"""`compile` of a MetaModel: both optimizers, the loss and how tasks are run."""

from collections.abc import Callable, Sequence

import keras

from keras_reptile import (
    compiling,
    distribution,
    keras_under_strategies,
    personal,
    settings,
    slot_decay,
    task_running,
)
from keras_reptile.inner_variables import InnerVariables
from keras_reptile.integers import check_integer
from keras_reptile.layer_state import check_state_of_layers
from keras_reptile.learner import Learner
from keras_reptile.metrics import TaskMetrics, as_list
from keras_reptile.second_order import (
    check_second_order,
    refused_in_the_loop,
)


class ConfiguresBothLoops:
    """Mixed into `MetaModel`: `compile`, and what it makes of its arguments."""

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str | None = None,
        inner_optimizer: keras.optimizers.Optimizer | str | None = None,
        loss: keras.losses.Loss | str | Callable | None = None,
        metrics: Sequence | keras.metrics.Metric | str | Callable | None = (),
        inner_reduction: str | None = None,
        inner_weight_decay: float = 1.0,
        jit_compile: bool | str = "auto",
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        task_execution: str = "auto",
        tasks_per_chunk: int | None = None,
        inner_variables: InnerVariables = None,
        convolution_dtype: str | None = None,
    ) -> None:
        """Configures both loops.

        Args:
            optimizer: The outer optimizer. `SGD(e)` is the paper's
                interpolation of step size `e`; the default is `SGD(1.0)`,
                which is too much for MAML and FOMAML.
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
                inside a compiled loop, such as max pooling, or that XLA
                cannot compile; the log names them. The outer update is
                never compiled.
            run_eagerly: Runs everything step by step, to debug.
            steps_per_execution: Meta-steps per call, as Keras has it.
            task_execution: `"side_by_side"`, `"one_after_another"` or
                `"vectorized"`, see `keras_reptile.task_running`. `"auto"`
                chooses by device and says so in the log.
            tasks_per_chunk: Tasks in one program, where they are vectorized;
                `None` takes all of a meta-batch.
            inner_variables: Which variables the inner loop adapts: `None`
                for all, `"head"`, `"body"`, `"batch_norm"`, names of layers,
                paths of variables or a function of a variable. What is not
                adapted is learned under MAML and FOMAML only (head only is
                then ANIL, body only BOIL): the other algorithms are made of
                what the inner loop changes.
            convolution_dtype: `"bfloat16"` rounds the factors of the products
                that compiled convolutions are made of, and adds up in
                float32: a fifth to two fifths more steps per second on a
                CPU that multiplies bfloat16. The first layer, if it has
                fewer inputs per output than filters, and what is not
                compiled, such as the predictions of `kr.evaluate`, keep
                float32. `None` is the model's own precision.

        Raises:
            ValueError: If the loss is missing, the inner optimizer cannot be
                used as a pure function, or the model or the other arguments
                do not go with an argument.
        """
        compiling.check_kinds(inner_optimizer, loss, metrics)
        if optimizer is None:
            compiling.warn_of_default_step(self.algorithm)
        given = {
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
            for name in ("optimizer", "inner_optimizer"):
                given[name] = keras.optimizers.get(given[name])
            self._check_outer_loop(given)
            # Nothing of this model changes before all of it is let through.
            execution, jit = self._chosen_execution(given)
            learner = self._made_learner(given, jit)
            if learner.lower and (
                refusal := refused_in_the_loop(self.algorithm, learner)
            ):
                jit = compiling.goes_without(given["jit_compile"], refusal)
                learner = self._made_learner(given, jit)
            metrics = TaskMetrics(
                learner.loss_function,
                given["metrics"],
                self.distribute_strategy.num_replicas_in_sync,
            )
            decays = None
            if self.inner_state == "accumulate":
                decays = slot_decay.of_slots(
                    given["inner_optimizer"], learner.optimizer.variables
                )
            self._take(given, execution, jit, learner, metrics)
            self._slot_decays = decays
        personal.warn_unless_copied(self.inner_model)

    @property
    def learner(self) -> Learner:
        """The inner loop, as `kr.analysis` and algorithms take it."""
        self.require_compiled()
        return self._learner

    def _check_outer_loop(self, given):
        strategy, optimizer = self.distribute_strategy, given["optimizer"]
        distribution.check_strategy(
            strategy, self.inner_model, self.inner_state
        )
        compiling.check_outer_optimizer(optimizer)
        check_integer("steps_per_execution", given["steps_per_execution"], 1)
        keras_under_strategies.prepare(optimizer, strategy)

    def _chosen_execution(self, given):
        """In which way tasks are run, and whether XLA compiles them."""
        execution = task_running.choose(
            given["task_execution"],
            self.inner_model,
            self.algorithm,
            self.inner_state,
            given["run_eagerly"],
            given["convolution_dtype"],
        )
        task_running.check_chunk(given["tasks_per_chunk"], execution)
        check_state_of_layers(self.inner_model)
        return execution, compiling.whether_to_jit(
            given["jit_compile"], self.inner_model, given["run_eagerly"]
        )

    def _made_learner(self, given, jit):
        lower = jit and not given["run_eagerly"]
        compiling.check_convolution_dtype(
            given["convolution_dtype"], self.inner_model, lower
        )
        learner = Learner(
            self.inner_model,
            given["loss"],
            given["inner_optimizer"],
            given["inner_reduction"],
            given["inner_weight_decay"],
            lower,
            given["inner_variables"],
            in_bfloat16=given["convolution_dtype"] is not None,
        )
        compiling.check_outer_decay(given["optimizer"], self.algorithm, learner)
        check_second_order(self.algorithm, learner)
        return learner

    def _take(self, given, execution, jit, learner, metrics):
        # The loss and metrics stay here: Keras' own would read a Task as
        # (x, y, weight). Compiling all of a step breaks under strategies.
        super().compile(
            optimizer=given["optimizer"],
            run_eagerly=given["run_eagerly"],
            steps_per_execution=given["steps_per_execution"],
            jit_compile=False,
            auto_scale_loss=False,
        )
        trained = self.inner_model.trainable_variables
        self.optimizer.build(trained)
        self._compile_settings = given
        self.task_execution = execution
        self.tasks_per_chunk = given["tasks_per_chunk"]
        self.inner_loop_is_compiled = jit
        self._learner = learner
        # Under its own name, so that `.keras` files hold its slots.
        self.inner_optimizer = learner.optimizer
        self._task_metrics = metrics
        self._compiled_functions = {}
        self._fit_spec = self._evaluate_spec = None
        self._layers_checked_on = set()
        self.trained_layers = [
            layer.trainable for layer in self.inner_model._flatten_layers()
        ]
        self.settings = settings.of_model(
            self.inner_model,
            {**given, "jit_compile": jit},
            self.algorithm,
            self.inner_state,
            learner.adapts,
        )


def _sgd(learning_rate):
    return keras.optimizers.SGD(learning_rate)

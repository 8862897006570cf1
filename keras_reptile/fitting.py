"""`fit` and `evaluate` of a MetaModel: what they take, check and resume."""

import keras
import tensorflow as tf

from keras_reptile import (
    compiling,
    distribution,
    epoch_checks,
    fit_checks,
    fit_warnings,
    fixed_labels,
    monitors,
    resuming,
    settings,
    shapes,
    worker_checks,
)
from keras_reptile.layer_state import check_state_of_layers
from keras_reptile.own_words import in_our_words
from keras_reptile.second_order import check_second_order


class NotCompiled(ValueError, AttributeError):
    """An AttributeError as well, since properties raise it."""


class FitsEpisodes:
    """What a `MetaModel` has around `fit` and `evaluate` of `keras.Model`."""

    @in_our_words()
    def fit(
        self, x: tf.data.Dataset | None = None, y: None = None, **kwargs
    ) -> keras.callbacks.History:
        """Meta-trains; `keras.Model.fit` on a dataset of task batches.

        An episode stream of `kr.data` goes on where the model stands: at
        `meta_step`. With a `MetaTrainer(resume=True)` among the callbacks
        the last checkpoint is restored first, and an epoch that was cut off
        is finished before the next. `epochs` are counted from where the run
        began.

        Args:
            x: A `tf.data.Dataset` of `Task`s with a leading task axis.
            y: Nothing: tasks have their targets in them.
            **kwargs: As `keras.Model.fit`. `steps_per_epoch` is needed,
                since a stream has no end. Of the `callbacks`, those after
                a `MetaTrainer` see in the logs what it has measured.

        Returns:
            A Keras `History`.

        Raises:
            ValueError: If `compile` was not called, the episodes do not suit
                the model, or an argument means nothing here
                (`batch_size`, `class_weight`) or misleads (`initial_epoch`
                with `resume`, BackupAndRestore, averages swapped in at the
                ends of epochs beside checkpoints), or labels that are fixed
                are not those of the validation or those learned before; or
                if one of several workers is given something else.
            FloatingPointError: Of a `MetaTrainer`, if more inner loops than
                its `max_nonfinite` end in NaN or infinity.
            OSError: Of a `MetaTrainer`, if it cannot write.
        """
        self.require_compiled()
        fit_checks.check_arguments(x, y, kwargs)
        monitors.choose_modes(kwargs.get("callbacks"), self.metrics)
        examples = self._check_tasks(x)
        worker_checks.check_same_fit(self, x, kwargs)
        fit_warnings.warn_of_scaling(examples, self.inner_model)
        fit_warnings.warn_of_arguments(x, kwargs, self.meta_step)
        if x.element_spec != self._fit_spec:
            # Keras' step would be traced for shapes that suit both datasets,
            # and the number of tasks and steps must be static.
            self._fit_spec, self.train_function = x.element_spec, None
        kwargs.setdefault("shuffle", False)
        self._check_validation_data(kwargs)
        fit_warnings.warn_of_same_tasks(x, kwargs.get("validation_data"))
        fixed_labels.check_streams(x, kwargs.get("validation_data"))
        self._share_validation_data(kwargs)
        epoch_checks.check_epochs(
            x, kwargs.get("steps_per_epoch"), self.steps_per_execution
        )
        watched = resuming.watched(self, x, kwargs.get("callbacks"))
        with watched as done, fixed_labels.learned(self, x):
            if done is not None:
                return resuming.fit_from_here(
                    self, self._keras_fit, x, done, kwargs
                )
            epoch_checks.check_goes_on(x, self.meta_step)
            here = resuming.stream_from_here(self, x)
            return self._keras_fit(here, **kwargs)

    def _keras_fit(self, x, goes_on=False, **kwargs):
        callbacks = kwargs.get("callbacks")
        fit_warnings.warn_of_zero_rate(kwargs, self.optimizer, self.meta_step)
        final_values = resuming.final_values(self, callbacks, goes_on)
        with final_values:
            return super().fit(
                self._shared(x, kwargs, "steps_per_epoch"), **kwargs
            )

    def _shared(self, x, arguments, steps):
        """`x` as Keras gets it; of several replicas it cannot see the end."""
        x = self._checked_throughout(x)
        if not distribution.is_shared(self.distribute_strategy):
            return x
        if arguments.get(steps) is None:
            arguments[steps], x = epoch_checks.length(x, steps), x.repeat()
        first, last = 0, 1
        if steps == "steps_per_epoch":
            first = arguments.get("initial_epoch", 0)
            last = arguments.get("epochs", 1)
        epoch_checks.check_long_enough(x, arguments[steps] * (last - first))
        return distribution.share(x, self.distribute_strategy)

    def _checked_throughout(self, x):
        return fit_checks.checked_throughout(
            x, self.inner_model, self.learner.loss_function
        )

    def _check_validation_data(self, arguments):
        data = arguments.get("validation_data")
        if data is not None:
            self._check_tasks(data)
            arguments["validation_data"] = self._checked_throughout(data)
            epoch_checks.check_epochs(
                data,
                arguments.get("validation_steps"),
                self.steps_per_execution,
                "validation_steps",
            )

    def _share_validation_data(self, arguments):
        data = arguments.get("validation_data")
        if data is None or not distribution.is_shared(self.distribute_strategy):
            return
        self._evaluate_spec, self.test_function = data.element_spec, None
        arguments["validation_data"] = self._shared(
            data, arguments, "validation_steps"
        )
        epoch_checks.check_epochs(
            data,
            arguments["validation_steps"],
            self.steps_per_execution,
            "validation_steps",
        )

    @in_our_words()
    def evaluate(
        self, x: tf.data.Dataset | None = None, y: None = None, **kwargs
    ) -> list | dict:
        """Adapts to every task of a dataset and reports loss and metrics.

        For few-shot accuracy with its interval, in a named mode, there is
        `kr.evaluate`. Tasks whose inner loop ends in NaN or infinity are left
        out, as in training, and the log says of how many that is so.

        Args:
            x: A `tf.data.Dataset` of `Task`s with a leading task axis.
            y: Nothing: tasks have their targets in them.
            **kwargs: As `keras.Model.evaluate`. `steps` is needed for a
                stream, which has no end.

        Returns:
            A list of numbers, the first being the loss after adaptation; a
            dict by name with `return_dict=True`.

        Raises:
            ValueError: If the episodes do not suit the model, have other
                labels than those it has learned, or are others on another
                worker.
        """
        fit_checks.check_arguments(x, y, kwargs)
        if isinstance(x, tf.distribute.DistributedDataset):
            return self._keras_evaluate(x, **kwargs)  # `fit` has checked it.
        self._check_tasks(x)
        worker_checks.check_same(
            self.distribute_strategy,
            {**worker_checks.of_dataset(x), "steps": kwargs.get("steps")},
        )
        if settings.of_stream(x):
            fixed_labels.check_evaluated(self, fixed_labels.of_stream(x))
        if x.element_spec != self._evaluate_spec:
            self._evaluate_spec, self.test_function = x.element_spec, None
        epoch_checks.check_epochs(
            x, kwargs.get("steps"), self.steps_per_execution, "steps"
        )
        return self._keras_evaluate(self._shared(x, kwargs, "steps"), **kwargs)

    def _keras_evaluate(self, x, return_dict=False, **kwargs):
        logs = super().evaluate(x, return_dict=True, **kwargs)
        fit_warnings.warn_of_failed(logs)
        return logs if return_dict else self._flatten_metrics_in_order(logs)

    def check_layers_on(self, shape: tuple, dtype: object) -> None:
        """Refuses layers that `compile` refuses, once the data says more.

        Args:
            shape: Of an example. Nothing is done where the model knew one at
                `compile`, or an extent is not known now, either.
            dtype: Of the examples.

        Raises:
            ValueError: That names the layers.
        """
        model, batch = self.inner_model, tf.TensorSpec((2, *shape), dtype)
        if (
            batch in self._layers_checked_on
            or shapes.batch_built_with(model) is not None
            or None in batch.shape
        ):
            return
        check_state_of_layers(model, batch)
        check_second_order(self.algorithm, self.learner, batch)
        if self.learner.lower:
            compiling.check_compiles(self.algorithm, self.learner, batch)
        self._layers_checked_on.add(batch)

    def _check_tasks(self, x):
        self.require_compiled()
        fit_checks.check_same_variables(self)
        examples = fit_checks.check_task_dataset(
            x, self.inner_model, self.learner.loss_function
        )
        spec = x.element_spec.support.x
        self.check_layers_on(spec.shape[2:], spec.dtype)
        return examples

    def require_compiled(self) -> None:
        """Refuses what needs both loops before `compile`.

        Raises:
            NotCompiled: A ValueError, if it was not called.
        """
        if not self.compiled:
            raise NotCompiled(
                "The MetaModel must be compiled first. Call `compile` with "
                "an outer `optimizer`, an `inner_optimizer` and a `loss`."
            )

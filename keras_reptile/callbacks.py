"""MetaTrainer: evaluates, checkpoints and resumes a meta-training run."""

import keras
import tensorflow as tf
from absl import logging

from keras_reptile import callback_checks, settings, worker_checks, workers
from keras_reptile.clock import Clock
from keras_reptile.data.classes import ClassDataset
from keras_reptile.intervals import Intervals
from keras_reptile.measurements import Measurements
from keras_reptile.nonfinite_tasks import NonfiniteTasks
from keras_reptile.preemption import Preemption
from keras_reptile.protocol import Protocol
from keras_reptile.run import Run
from keras_reptile.scalars import Scalars, of_training


class MetaTrainer(keras.callbacks.Callback):
    """Watches over `MetaModel.fit`.

    Every `eval_interval` meta-steps it measures few-shot accuracy on many
    episodes of held-out classes and writes `val_accuracy` and
    `val_accuracy_ci95` into Keras' logs, for the callbacks after it, the
    `History` and TensorBoard; `val_accuracy_before` is that before
    adaptation. It reports `outer_step_size` and `meta_steps_per_second`,
    writes checkpoints, and resumes from them.

    A resumed run ends with bitwise the weights of an uninterrupted one, on a
    machine with as many cores (`keras_reptile.lanes`):
    episodes, dropout and schedules are functions of the meta-step, and a
    checkpoint holds all else (weights, outer optimizer, inner slots). What
    callbacks of Keras' remember, such as EarlyStopping, no checkpoint holds:
    they begin anew, and the log says so. Of them, those that give back the
    best weights leave the inner slots as they are; `best.npz` has both.
    `epochs` are counted from where the run began. A further `fit` by the same
    `MetaTrainer` is a further part of the run, of the same settings: it counts
    its own from there. Where the outer optimizer averages weights, it goes on
    from the averages, unless `resume` is on, by which it goes on from a
    checkpoint.

    Where it writes checkpoints, SIGTERM ends the training after the call of
    `steps_per_execution` meta-steps that it arrives in, or in the middle of an
    evaluation, which is then made up for: a checkpoint is written, `fit`
    returns, and `preempted` is true.

    Args:
        validation: Classes to evaluate on. Neither those trained on nor
            those reported on, as the best checkpoint is chosen by them.
            Where labels are fixed in training, with the same.
        protocol: How to evaluate. The first of its modes is `val_accuracy`,
            another one `val_accuracy_<mode>`.
        eval_interval: Meta-steps between evaluations; `None` evaluates at
            the end of every epoch.
        checkpoint_dir: Where checkpoints go; `None` writes none. No other
            run can use the folder meanwhile.
        checkpoint_interval: Meta-steps between checkpoints; `None` takes
            `eval_interval`, and where that is `None`, too, the ends of epochs.
        keep: How many of the newest checkpoints stay. The best by
            `val_accuracy`, of equals the last, stays as `best.npz` besides.
        resume: Goes on from the newest checkpoint in `checkpoint_dir`, if
            there is one. Without it a folder that holds any is refused.
        gradient_agreement: Also logs, with every evaluation, how far the
            gradients of two batches of one task agree, on the first 20 tasks
            that are trained on: `gradient_inner_product`, `gradient_cosine`
            and `gradient_transfer`, each with its `_ci95`, see
            `kr.analysis.gradient_agreement`, which has it of other tasks.
        log_dir: Where TensorBoard scalars by meta-step go, those of training
            at the ends of epochs; `None` writes none.
            (`keras.callbacks.TensorBoard` has them by epoch.)
        max_nonfinite: The share of an epoch's tasks whose inner loop may
            end in NaN or infinity, where epochs of fewer than 20 tasks are
            taken together. These are left out of the
            update and counted as `inner/nonfinite_tasks`; if there are more,
            training stops with a `FloatingPointError`.
        on_write_error: What becomes of the training when a checkpoint or
            scalars cannot be written, as on a full disk: `"stop"`, with an
            `OSError`, or `"continue"`, with an error in the log.

    Raises:
        ValueError: If `validation` and `protocol` are not given together,
            a number is out of range or without effect, or a folder cannot
            be written.

    Example:

    ```python
    kr.MetaTrainer(
        validation=omniglot.validation,
        protocol=kr.Protocol(ways=5, shots=1, num_episodes=200),
        checkpoint_dir="runs/o15",
        resume=True,
    )
    ```
    """

    def __init__(
        self,
        validation: ClassDataset | None = None,
        protocol: Protocol | None = None,
        eval_interval: int | None = None,
        checkpoint_dir: str | None = None,
        checkpoint_interval: int | None = None,
        keep: int = 3,
        resume: bool = False,
        log_dir: str | None = None,
        gradient_agreement: bool = False,
        max_nonfinite: float = 0.5,
        on_write_error: str = "stop",
    ):
        super().__init__()
        callback_checks.check_intervals(
            eval_interval=eval_interval,
            checkpoint_interval=checkpoint_interval,
            keep=keep,
        )
        self._nonfinite_tasks = NonfiniteTasks(max_nonfinite)
        self._measurements = Measurements(
            validation, protocol, gradient_agreement
        )
        callback_checks.check_used(
            eval_interval,
            checkpoint_interval,
            measures=validation is not None or gradient_agreement,
            writes=checkpoint_dir is not None,
            logs=log_dir is not None,
        )
        self._run = Run(checkpoint_dir, keep, resume, on_write_error)
        self.resume = resume
        self._scalars = Scalars(log_dir, on_write_error)
        self.eval_interval = eval_interval
        self.checkpoint_interval = checkpoint_interval or eval_interval
        self.preempted = False
        self._preemption = Preemption()
        self._clock = Clock()
        self._begun = False

    @property
    def best_accuracy(self) -> float | None:
        """The highest `val_accuracy` so far; `None` before the first."""
        return self._run.record.best_accuracy

    @property
    def measures(self) -> bool:
        """Whether there is anything that it evaluates."""
        return bool(self._measurements.names)

    @property
    def checkpoints(self) -> bool:
        """Whether it writes any."""
        return self._run.writes

    @property
    def seconds(self) -> float:
        """Wall time of the whole run, over all its resumptions."""
        return self._run.record.seconds

    def before_fit(self, model: keras.Model, x: tf.data.Dataset) -> int | None:
        """Restores the last checkpoint; called by `MetaModel.fit`.

        Args:
            model: A compiled `MetaModel`.
            x: The episodes it is to be trained on.

        Returns:
            How many meta-steps were done since this `fit` began, by another
            process or a call that was cut off; `None` if it begins now.

        Raises:
            ValueError: If another run uses the folder, if there are
                checkpoints and `resume` is off, if none of them can be used,
                if the validation classes do not suit the model or the
                protocol, if a run goes on with other settings, or if a
                MetaTrainer of another worker is to do something else.
        """
        self.set_model(model)
        self._check_same_on_workers()
        self._measurements.begin(model, x)
        self._begun = True
        if self._run.takes_another(model):
            self._nonfinite_tasks.begin_training()
        run_settings = {
            **model.settings,
            **settings.of_stream(x),
            **self._measurements.settings,
        }
        self.preempted = False
        if self.resume:
            callback_checks.check_resumable(x)
        if self.checkpoints:
            self._preemption.watch()
        done = self._run.begin_fit(run_settings)
        self._scalars.open(model.distribute_strategy)
        if self._run.record.evaluation_due:
            self._make_up_for_evaluation()
        return done

    def _check_same_on_workers(self):
        """All of them evaluate, write and ask who is to stop, or none."""
        given = {
            "eval_interval": self.eval_interval,
            "checkpoint_interval": self.checkpoint_interval,
            "a checkpoint_dir": self.checkpoints,
            "a log_dir": self._scalars.writes,
            "gradient_agreement": self._measurements.of_gradients,
            "validation": self._measurements.settings,
        }
        worker_checks.check_same(self.model.distribute_strategy, given)

    def _make_up_for_evaluation(self):
        self._evaluate(self.model.meta_step)
        if not self._run.record.evaluation_due:
            self._save()

    def after_fit(self) -> None:
        """Gives back what `before_fit` took; called by `MetaModel.fit`."""
        self._begun = False
        self._scalars.close()
        self._run.end_fit()
        self._preemption.release(heeded=self.preempted)

    def on_train_begin(self, logs: dict | None = None) -> None:
        callback_checks.check_begun(self.model, self._begun)
        self._run.record.finished = False
        step = self.model.meta_step
        self._intervals = Intervals(
            self.eval_interval, self.checkpoint_interval, step
        )
        if step == 0 and self._scalars.writes:
            start = self._measurements.agreement()
            if start:  # What it is to grow from.
                self._scalars.write(0, start)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._clock.restart()
        self._nonfinite_tasks.begin_epoch()
        self._run.record.begin_epoch()
        self._scores = {}
        self._intervals.begin_epoch(self.model.meta_step, self.params["steps"])

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        step = self.model.meta_step
        self._clock.tick(step)
        if logs is not None and self._clock.rate:
            logs["meta_steps_per_second"] = self._clock.rate
        since = step - self._intervals.epoch_began
        self._nonfinite_tasks.check(
            float((logs or {}).get("inner/nonfinite_tasks", 0)),
            since * self.model.tasks_per_step,
            step,
        )
        self._do(*self._intervals.passed(step))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        step = self.model.meta_step
        self._nonfinite_tasks.end_epoch()
        if self.preempted and step != self._intervals.epoch_ends:
            return  # `before_final_values` saves; the rest is to come first.
        self._do(*self._intervals.at_end_of_epoch())
        if logs is not None:
            self._scalars.write(step, of_training(logs))
            # Of `validation_data`, which would be of another measure.
            for name in self._measurements.names:
                logs.pop(name, None)
            logs.update(self._scores, **self._progress())

    def before_final_values(self) -> None:
        """Saves the weights that are trained on; called by `MetaModel.fit`.

        Some outer optimizers put averages in their place after that.
        """
        with self._clock.stopped():
            self._run.save_unsaved()

    def on_train_end(self, logs: dict | None = None) -> None:
        self._run.record.measure()
        self._run.record.finished = not self._told_to_stop()
        if not self._run.record.finished:
            step = self.model.meta_step
            logging.warning("Ended by SIGTERM after meta-step %d.", step)

    def _told_to_stop(self):
        """Whether a worker got SIGTERM; all ask at the same places."""
        strategy = self.model.distribute_strategy
        self.preempted = self.preempted or workers.any_worker(
            strategy, self._preemption.noticed
        )
        return self.preempted

    def _do(self, evaluate, save):
        if evaluate:
            self._evaluate(self.model.meta_step)
        if save:
            self._save()
        if self._told_to_stop():
            self.model.stop_training = True

    def _evaluate(self, step):
        with self._clock.stopped():
            scalars = self._measurements.of(self.model, self._told_to_stop)
        self._run.record.evaluation_due = scalars is None
        if scalars is None:
            return
        if "val_accuracy" in scalars:
            with self._clock.stopped():
                self._run.save_best(scalars["val_accuracy"])
        self._scores = scalars
        self._scalars.write(step, {**scalars, **self._progress()})

    def _save(self):
        with self._clock.stopped():
            self._run.save()

    def _progress(self):
        step_size = tf.convert_to_tensor(self.model.optimizer.learning_rate)
        progress = {"outer_step_size": float(step_size)}
        if self._clock.rate:
            progress["meta_steps_per_second"] = self._clock.rate
        return progress

"""MetaTrainer: evaluates, checkpoints and resumes a meta-training run."""

import time

import keras
import tensorflow as tf
from absl import logging

from keras_reptile import checkpoints, files, fit_checks, settings
from keras_reptile.analysis.agreement import Probe
from keras_reptile.clock import Clock
from keras_reptile.data.classes import ClassDataset
from keras_reptile.evaluation import Protocol, check_protocol, evaluate

BEST = "best.npz"


class MetaTrainer(keras.callbacks.Callback):
    """Watches over `MetaModel.fit`.

    Every `eval_interval` meta-steps it measures few-shot accuracy on many
    episodes of held-out classes and writes `val_accuracy` and
    `val_accuracy_ci95` into Keras' logs, for other callbacks, the `History`
    and TensorBoard. It reports `outer_step_size` and
    `meta_steps_per_second`, writes checkpoints, and resumes from them.

    `seconds` is the wall time of the whole run, over all its resumptions.

    A resumed run ends with bitwise the weights of an uninterrupted one, on a
    machine with as many cores (`keras_reptile.lanes`):
    episodes, dropout and schedules are functions of the meta-step, and a
    checkpoint holds all else (weights, outer optimizer, inner slots).

    Args:
        validation: Classes to evaluate on. Neither those trained on nor
            those reported on, as the best checkpoint is chosen by them.
        protocol: How to evaluate. The first of its modes is `val_accuracy`,
            another one `val_accuracy_<mode>`.
        eval_interval: Meta-steps between evaluations; `None` evaluates at
            the end of every epoch.
        checkpoint_dir: Where checkpoints go; `None` writes none.
        checkpoint_interval: Meta-steps between checkpoints; `None` takes
            `eval_interval`.
        keep: How many of the newest checkpoints stay. The best by
            `val_accuracy` stays as `best.npz` besides.
        resume: Goes on from the newest checkpoint in `checkpoint_dir`, if
            there is one. Without it a folder that holds any is refused.
        gradient_agreement: Also logs, with every evaluation, how far the
            gradients of two batches of one task agree, on the first 20 tasks
            of the stream: `gradient_inner_product`, `gradient_cosine` and
            `gradient_transfer`, see `kr.analysis.gradient_agreement`.
        log_dir: Where TensorBoard scalars by meta-step go; `None` writes
            none. (`keras.callbacks.TensorBoard` has them by epoch.)
        max_nonfinite: The share of an epoch's tasks, of 20 at least, whose
            inner loop may end in NaN or infinity. These are left out of the
            update and counted as `inner/nonfinite_tasks`; if there are more,
            training stops with a `FloatingPointError`.

    Raises:
        ValueError: If `validation` and `protocol` are not given together,
            a number is out of range, or a folder cannot be written.

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
    ):
        super().__init__()
        _check_arguments(
            validation, protocol, eval_interval, checkpoint_interval, keep
        )
        if resume and checkpoint_dir is None:
            raise ValueError(
                "To resume, MetaTrainer must know where the checkpoints are. "
                "Received: resume=True and checkpoint_dir=None."
            )
        self.validation = validation
        self.protocol = protocol
        self.eval_interval = eval_interval
        self.checkpoint_dir = files.writable_folder(checkpoint_dir)
        self.checkpoint_interval = checkpoint_interval or eval_interval
        self.keep = keep
        self.resume = resume
        self.log_dir = files.writable_folder(log_dir)
        self.gradient_agreement = gradient_agreement
        if not 0.0 <= max_nonfinite <= 1.0:
            raise ValueError(
                "`max_nonfinite` is a share of the tasks, from 0 to 1. "
                f"Received: max_nonfinite={max_nonfinite!r}."
            )
        self.max_nonfinite = max_nonfinite
        self.best_accuracy = None
        self.seconds = 0.0
        self._probe = None
        self._writer = None
        self._scores = {}
        self._saved_at = None
        self._trained = None
        self._settings = {}
        self._clock = Clock()

    def before_fit(self, model, x) -> bool:
        """Restores the last checkpoint; called by `MetaModel.fit`.

        Args:
            model: A compiled `MetaModel`.
            x: The episodes it is to be trained on.

        Returns:
            Whether there was one.

        Raises:
            ValueError: If there are checkpoints and `resume` is off, if none
                of them can be used, or if the validation classes do not suit
                the model or the protocol.
        """
        if self.validation is not None:
            check_protocol(model, self.validation, self.protocol)
        if model is not self._trained:
            self._trained, self._saved_at = model, None
            self.best_accuracy, self.seconds = None, 0.0
        if self.gradient_agreement:
            self._probe = Probe.from_stream(model.learner, x)
        self._settings = {**model.settings, **settings.of_stream(x)}
        if self.checkpoint_dir is None:
            return False
        files.remove_partial(self.checkpoint_dir)
        if not self.resume:
            self._refuse_another_run()
            return False
        fit_checks.check_resumable(x)
        extra = checkpoints.restore_latest(
            self.checkpoint_dir, model, self._settings
        )
        if extra is None:
            return False
        # Not from `extra`: an evaluation may have come after its checkpoint.
        self.best_accuracy = self._best_on_disk()
        self.seconds = extra["seconds"]
        self._saved_at = model.meta_step
        logging.info("Resumed at meta-step %d.", model.meta_step)
        return True

    def _refuse_another_run(self):
        found = checkpoints.list_steps(self.checkpoint_dir)
        found += self.checkpoint_dir.glob(BEST)
        if found and self._saved_at is None:
            raise ValueError(
                "A new run must not write over another's checkpoints. "
                f"Received: checkpoint_dir={self.checkpoint_dir}, which holds "
                f"{len(found)} of them. Go on from them with resume=True, or "
                "use another folder."
            )

    def _best_on_disk(self):
        try:
            header, _ = checkpoints.read(self.checkpoint_dir / BEST)
        except checkpoints.DamagedCheckpoint:
            return None  # There is none, or it is to be replaced.
        return header["extra"]["best_accuracy"]

    def on_train_begin(self, logs=None):
        self._last_step = self.model.meta_step
        self._started = time.perf_counter() - self.seconds
        if self.log_dir:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_epoch_begin(self, epoch, logs=None):
        self._clock.restart()
        self._scores = {}
        self._epoch_began = self.model.meta_step

    def on_train_batch_end(self, batch, logs=None):
        step = self.model.meta_step
        self._clock.tick(step)
        if logs is not None and self._clock.rate:
            logs["meta_steps_per_second"] = self._clock.rate
        self._stop_if_diverged(step, logs or {})
        before, self._last_step = self._last_step, step
        evaluated = _crossed(before, step, self.eval_interval)
        if evaluated:
            self._evaluate(step)
        # With the same interval, after the evaluation that it belongs to.
        if _crossed(before, step, self.checkpoint_interval):
            self._save(step)

    def _stop_if_diverged(self, step, logs):
        failed = float(logs.get("inner/nonfinite_tasks", 0))
        tasks = (step - self._epoch_began) * self.model.tasks_per_step
        if tasks < 20 or failed <= self.max_nonfinite * tasks:
            return
        raise FloatingPointError(
            f"The inner loops of {failed:.0f} of {tasks} tasks ended in NaN or "
            f"infinity by meta-step {step}, more than the share of "
            f"{self.max_nonfinite} that `max_nonfinite` allows. Lower the "
            "learning rate of the inner optimizer, or of the outer one, and "
            "go on from the last checkpoint."
        )

    def on_epoch_end(self, epoch, logs=None):
        step = self.model.meta_step
        if self.eval_interval is None:
            self._evaluate(step)
        if self.checkpoint_interval is None:
            self._save(step)
        if logs is not None:
            logs.update(self._scores, **self._progress())

    def on_train_end(self, logs=None):
        if self._saved_at != self.model.meta_step:
            self._save(self.model.meta_step)
        self.seconds = time.perf_counter() - self._started
        if self._writer:
            self._writer.close()
            self._writer = None

    def _evaluate(self, step):
        scalars = {}
        if self.validation is not None:
            with self._clock.stopped():
                scores = evaluate(self.model, self.validation, self.protocol)
            for mode, score in scores.items():
                first = mode == self.protocol.modes[0]
                name = "val_accuracy" + ("" if first else f"_{mode}")
                scalars[name] = score.mean
                scalars[f"{name}_ci95"] = score.ci95
                scalars["val_accuracy_before"] = score.mean_before
            self._keep_best(scalars["val_accuracy"])
        if self._probe:
            with self._clock.stopped():
                agreement = self._probe.measure()._asdict()
            scalars |= {f"gradient_{n}": v for n, v in agreement.items()}
        self._scores = scalars
        self._write_scalars(step, {**scalars, **self._progress()})

    def _keep_best(self, accuracy):
        if self.best_accuracy is not None and accuracy <= self.best_accuracy:
            return
        self.best_accuracy = accuracy
        if self.checkpoint_dir:
            with self._clock.stopped():
                self._write(self.checkpoint_dir / BEST)

    def _save(self, step):
        if self.checkpoint_dir is None:
            return
        with self._clock.stopped():
            self._write(checkpoints.step_path(self.checkpoint_dir, step))
        self._saved_at = step
        for path in checkpoints.list_steps(self.checkpoint_dir)[: -self.keep]:
            path.unlink()

    def _write(self, path):
        self.seconds = time.perf_counter() - self._started
        extra = {"best_accuracy": self.best_accuracy, "seconds": self.seconds}
        checkpoints.write(path, self.model, extra, self._settings)

    def _progress(self):
        step_size = tf.convert_to_tensor(self.model.optimizer.learning_rate)
        progress = {"outer_step_size": float(step_size)}
        if self._clock.rate:
            progress["meta_steps_per_second"] = self._clock.rate
        return progress

    def _write_scalars(self, step, scalars):
        if self._writer is None:
            return
        with self._writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self._writer.flush()


def _crossed(before, after, interval):
    return bool(interval) and before // interval < after // interval


def _check_arguments(validation, protocol, eval_every, checkpoint_every, keep):
    if (validation is None) != (protocol is None):
        raise ValueError(
            "`validation` and `protocol` belong together: classes, and how "
            f"to evaluate on them. Received: validation={validation!r}, "
            f"protocol={protocol!r}."
        )
    for name, value in (
        ("eval_interval", eval_every),
        ("checkpoint_interval", checkpoint_every),
        ("keep", keep),
    ):
        if value is not None and (int(value) != value or value < 1):
            raise ValueError(
                f"`{name}` must be an integer of at least 1. Received: "
                f"{name}={value!r}."
            )

"""The functional core: a Keras model that adapts to tasks.

Example:

```python
learner = Learner(model, loss, keras.optimizers.SGD(0.01))
adapted = learner.adapt(learner.state(), task)
logits = learner.predict(adapted, task.query.x)
```
"""

import copy
import numbers
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_reptile.episodes import Task
from keras_reptile.inner_step import InnerStep, State
from keras_reptile.inner_variables import InnerVariables, selected
from keras_reptile.losses import PerExampleLoss
from keras_reptile.seeds import fold_seed, is_seed
from keras_reptile.shapes import check_model
from keras_reptile.stateless import is_learning_rate, stateless


class Learner(InnerStep):
    """A model, its loss and its inner optimizer as pure functions.

    Args:
        model: A built `keras.Model`.
        loss: A Keras loss, its name, or a function of targets and outputs.
        inner_optimizer: A Keras optimizer. Only its settings are used.
        reduction: Of the loss over an inner batch: `"sum"`, `"mean"`, or
            `None` for what the loss itself says. The original differentiates
            the sum.
        weight_decay: Every weight is multiplied by this before every inner
            step; 1 is no decay. It is not scaled by the learning rate.
        lower: Whether convolutions take their compiled form.
        inner_variables: Which variables the inner loop adapts, see
            `keras_reptile.inner_variables`; `None` is all of them.
        in_bfloat16: Whether the products of compiled convolutions round their
            factors to bfloat16.

    Raises:
        ValueError: If the model is not built, has nothing to train, or the
            optimizer cannot be used as a pure function.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: keras.losses.Loss | str | Callable,
        inner_optimizer: keras.optimizers.Optimizer,
        reduction: str | None = None,
        weight_decay: float = 1.0,
        lower: bool = True,
        inner_variables: InnerVariables = None,
        in_bfloat16: bool = False,
    ):
        check_model(model)
        number = isinstance(weight_decay, numbers.Real)
        if not number or not 0.0 < weight_decay <= 1.0:
            raise ValueError(
                "The inner weight decay is a factor on the weights, above 0 "
                "and at most 1; 1 is no decay. Received: "
                f"{weight_decay!r}."
            )
        self.model = model
        self.loss_function = PerExampleLoss(loss, reduction)
        self.optimizer = stateless(inner_optimizer, model.trainable_variables)
        self.weight_decay = weight_decay
        self.lower = lower
        self.in_bfloat16 = in_bfloat16
        self.adapts = selected(model, inner_variables)
        self.trained_paths = [v.path for v in model.trainable_variables]
        self._steps = None
        self._keeps_slots = False
        self._first_slots = [v.numpy() for v in self.optimizer.variables]

    def state(self) -> State:
        """The model's weights and the optimizer's slots, as they stand."""
        return State(
            _tensors(self.model.trainable_variables),
            _tensors(self.model.non_trainable_variables),
            _tensors(self.optimizer.variables),
            tf.zeros(()),
        )

    def with_fresh_slots(self, state: State) -> State:
        """The same state with the slots of an optimizer not yet used.

        Args:
            state: A state.

        Returns:
            The other one.

        Raises:
            ValueError: If the tasks' slots are accumulated.
        """
        if self._keeps_slots:
            raise ValueError(
                'inner_state="accumulate" puts together what tasks add to the '
                "slots that they are given. Received: an algorithm that takes "
                'fresh ones. Use inner_state="average" or "reset".'
            )
        return state._replace(slots=self.fresh_slots)

    def keeping_slots(self) -> "Learner":
        """The same learner, which refuses `with_fresh_slots`."""
        learner = copy.copy(self)
        learner._keeps_slots = True
        return learner

    @property
    def fresh_slots(self) -> list:
        """The slots of an optimizer not yet used, at today's learning rate."""
        return [
            tf.convert_to_tensor(variable.value)
            if is_learning_rate(variable)
            else tf.constant(slot)
            for variable, slot in zip(
                self.optimizer.variables, self._first_slots
            )
        ]

    def with_seed(self, state: State, number: int | tf.Tensor) -> State:
        """The same state with dropout's seeds derived for one task.

        Args:
            state: A state.
            number: An integer that names the task.

        Returns:
            The other state.
        """
        variables = self.model.non_trainable_variables
        buffers = [
            fold_seed(buffer, number) if is_seed(variable) else buffer
            for variable, buffer in zip(variables, state.buffers)
        ]
        return state._replace(buffers=buffers)

    def restricted(self, inner_variables: InnerVariables) -> "Learner":
        """The same learner, whose inner loop adapts these variables only.

        Args:
            inner_variables: See `keras_reptile.inner_variables`.

        Returns:
            The other learner.

        Raises:
            ValueError: If it names none.
        """
        learner = copy.copy(self)
        learner.adapts = selected(self.model, inner_variables)
        return learner

    def unrounded(self) -> "Learner":
        """The same learner in the model's own precision, for measurements."""
        learner = copy.copy(self)
        learner.in_bfloat16 = False
        return learner

    def part(self, first: int | tf.Tensor, last: int | tf.Tensor) -> "Learner":
        """The same learner, whose inner loop is a part of the steps.

        Args:
            first: The first step, an integer scalar.
            last: The one after the last.

        Returns:
            The other learner.

        Raises:
            ValueError: If there is no such part, or this is one already.
        """
        if self._steps is not None:
            raise ValueError(
                "A part of the inner loop is named by steps of the whole. "
                "Received: `part` of a learner that is a part already, as an "
                "`additive` algorithm is given. Leave `additive` out, or use "
                "the whole learner."
            )
        inside = tf.is_tensor(first) or tf.is_tensor(last)
        if not inside and not (
            _are_integers(first, last) and 0 <= first <= last
        ):
            raise ValueError(
                "A part of the inner loop begins at step 0 or later and does "
                f"not end before it begins. Received: {first} to {last}. Use "
                "more `inner_steps` in the EpisodeSpec, or a smaller part."
            )
        learner = copy.copy(self)
        learner._steps = first, last
        return learner

    def adapt(self, state: State, task: Task) -> State:
        """The inner loop: one step for each row of `task.batches`.

        Args:
            state: Initial weights, buffers and slots.
            task: One episode.

        Returns:
            The `State` after the last step.

        Raises:
            ValueError: If this is a part that goes beyond the task's steps.
        """
        first, last = self._steps or (0, task.batches.shape[0])
        if not tf.is_tensor(last) and last > task.batches.shape[0]:
            raise ValueError(
                f"Steps {first} to {last} of the inner loop were asked for. "
                f"Received: a task of {task.batches.shape[0]} steps. Use more "
                "`inner_steps` in the EpisodeSpec, or a smaller part."
            )

        def body(i, state):
            return i + 1, self.step(state, *self.batch(task, i))

        _, state = tf.while_loop(
            lambda i, _: i < last,
            body,
            (tf.convert_to_tensor(first), state),
            maximum_iterations=task.batches.shape[0],
        )
        return state

    def batch(self, task: Task, i: int | tf.Tensor) -> tuple:
        """What inner step `i` takes.

        Args:
            task: One episode.
            i: Of the step, from 0.

        Returns:
            `(x, y)`: support examples, of shape `(inner_batch_size, ...)`,
            and their targets.
        """
        rows = task.batches[i]
        return tf.gather(task.support.x, rows), tf.gather(task.support.y, rows)

    def query_loss(self, state: State, task: Task) -> tf.Tensor:
        """The mean loss per query example, with the model's penalties.

        Args:
            state: A state, mostly an adapted one.
            task: One episode.

        Returns:
            A scalar.

        Raises:
            ValueError: If the task has no query examples.
        """
        self.require_queries(task)
        outputs, _, penalties = self._call(
            state, task.query.x, training=True, compiled=True
        )
        loss = tf.reduce_mean(self.loss_function(task.query.y, outputs))
        return loss + sum(tf.cast(p, loss.dtype) for p in penalties)

    def require_queries(self, task: Task) -> None:
        """Refuses a task without query examples.

        Args:
            task: One episode.

        Raises:
            ValueError: That says how to have some.
        """
        if task.query.x.shape[0] == 0:
            raise ValueError(
                "This algorithm learns from the query examples of an episode, "
                "and needs at least one. Received: episodes with none. Set "
                "`queries` of EpisodeSpec to at least 1."
            )


def _are_integers(*numbers):
    return all(isinstance(number, (int, np.integer)) for number in numbers)


def _tensors(variables):
    return [tf.convert_to_tensor(v.value) for v in variables]

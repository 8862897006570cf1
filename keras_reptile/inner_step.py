"""One inner step: loss, gradient and update as functions of a `State`.

A `State` goes in, a `State` comes out, and no variable is written, so that
any number of tasks can adapt side by side from the same weights.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_reptile.losses import check_not_masked
from keras_reptile.lowering import lowered
from keras_reptile.model_call import stateless_call


class State(NamedTuple):
    """What the inner loop changes, and what it met on the way.

    `weights` are the model's trainable variables and `buffers` the others
    (moving averages, dropout seeds), in the model's order; `slots` are the
    inner optimizer's variables; `loss`, a float32 scalar, is the sum over the
    inner steps so far of the mean loss of their batches.
    """

    weights: list
    buffers: list
    slots: list
    loss: tf.Tensor


class InnerStep:
    """Mixed into `Learner`, which has the model, loss and optimizer."""

    def gradient(self, state: State, x: tf.Tensor, y: tf.Tensor) -> tuple:
        """The loss of one batch and its gradient in the weights.

        Args:
            state: A state.
            x: Examples, shape `(n, ...)`.
            y: Their targets.

        Returns:
            `(gradient, loss, buffers)`: a list like `state.weights`, zeros
            for those that are not adapted; the mean loss per example; and
            the buffers after the forward pass.
        """
        adapted = [w for w, adapts in zip(state.weights, self.adapts) if adapts]
        with tf.GradientTape() as tape:
            tape.watch(adapted)
            outputs, buffers, penalties = self._call(
                state, x, training=True, compiled=True
            )
            losses = self.loss_function(y, outputs)
            total = self.loss_function.reduce(losses)
            for penalty in penalties:
                total += tf.cast(penalty, total.dtype)
        of_adapted = iter(
            dense(
                tape.gradient(
                    total,
                    adapted,
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
            )
        )
        gradient = [
            next(of_adapted) if adapts else tf.zeros_like(weight)
            for weight, adapts in zip(state.weights, self.adapts)
        ]
        return gradient, tf.reduce_mean(losses), buffers

    def step(self, state: State, x: tf.Tensor, y: tf.Tensor) -> State:
        """One inner step on one batch.

        Args:
            state: A state.
            x: Examples, shape `(n, ...)`.
            y: Their targets.

        Returns:
            The `State` after it.
        """
        before = state.weights
        if self.weight_decay != 1.0:
            decayed = [w * self.weight_decay for w in before]
            state = state._replace(weights=self._adapted(decayed, before))
        gradient, loss, buffers = self.gradient(state, x, y)
        weights, slots = self.optimizer.stateless_apply(
            state.slots, gradient, state.weights
        )
        # An optimizer may move a weight whose gradient is 0, as by decay.
        weights = self._adapted(weights, before)
        loss = state.loss + tf.cast(loss, tf.float32)
        return State(weights, buffers, list(slots), loss)

    def _adapted(self, after, before):
        kept = zip(after, before, self.adapts)
        return [a if adapts else b for a, b, adapts in kept]

    def predict(
        self, state: State, x: tf.Tensor, compiled: bool = False
    ) -> tf.Tensor:
        """The model's outputs; batch norm takes the statistics of `x`.

        Args:
            state: A state.
            x: Examples, shape `(n, ...)`.
            compiled: Whether this is called where XLA compiles. Outside, the
                platform's own convolutions are the faster form.

        Returns:
            Shape `(n, ways)`.
        """
        return self._call(state, x, training=False, compiled=compiled)[0]

    def _call(self, state, x, training, compiled):
        with lowered(self.model, self.lower and compiled, self.in_bfloat16):
            outputs, buffers, penalties = stateless_call(
                self.model, state.weights, state.buffers, x, training
            )
        check_not_masked(outputs)
        outputs = tf.cast(outputs, tf.float32) if _is_half(outputs) else outputs
        return outputs, buffers, penalties


def dense(gradients) -> list:
    """Gradients as tensors, those of an embedding's table too."""
    return [
        tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g
        for g in gradients
    ]


def _is_half(tensor):
    return tensor.dtype in (tf.float16, tf.bfloat16)

"""A Keras loss, per example, with its reduction made explicit."""

import keras
import tensorflow as tf

_REDUCTIONS = {
    "sum": "sum",
    "mean": "mean",
    "sum_over_batch_size": "mean",
    "mean_with_sample_weight": "mean",
}

_CROSSENTROPIES = (
    keras.losses.BinaryCrossentropy,
    keras.losses.BinaryFocalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
    keras.losses.SparseCategoricalCrossentropy,
)
# By name they are these, which take probabilities unless told otherwise.
_CROSSENTROPY_FUNCTIONS = (
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
    keras.losses.sparse_categorical_crossentropy,
)


class PerExampleLoss:
    """Values of a loss per example, and their sum or mean.

    The original hands a vector of losses to its optimizer, and TensorFlow 1
    differentiates the *sum*; a Keras loss is a mean. Under gradient descent
    the two differ by the factor of the batch size in the learning rate.

    Args:
        loss: A `keras.losses.Loss`, its name, or a function of targets and
            outputs that returns one value per example.
        reduction: `"sum"`, `"mean"`, or `None` for the loss' own.

    Raises:
        ValueError: If the reduction is none of these.
    """

    def __init__(self, loss, reduction: str | None = None):
        if loss is None:
            raise ValueError(
                "`loss` must be a Keras loss, its name or a function of "
                "targets and outputs. Received: None."
            )
        self.loss = keras.losses.get(loss)
        if getattr(self.loss, "ignore_class", None) is not None:
            raise ValueError(
                "`loss` must be of all classes, since every class of an "
                "episode is to be learned. Received: "
                f"{type(self.loss).__name__} with "
                f"ignore_class={self.loss.ignore_class}. Leave that out."
            )
        own = getattr(self.loss, "reduction", "sum_over_batch_size")
        chosen = own if reduction is None else reduction
        if chosen not in _REDUCTIONS:
            raise ValueError(
                'The inner loss is reduced by "sum" or "mean". Received: '
                f"inner_reduction={reduction!r}, and the loss' own "
                f"reduction is {own!r}. Pass one of the two by name."
            )
        self.reduction = _REDUCTIONS[chosen]
        self._sums_values = reduction is None and own == "sum"

    @property
    def takes_labels(self) -> bool:
        """Whether targets are labels, integers that name an output."""
        function = keras.losses.sparse_categorical_crossentropy
        return self.loss is function or isinstance(
            self.loss, keras.losses.SparseCategoricalCrossentropy
        )

    @property
    def takes_probabilities(self) -> bool:
        """Whether it is one of Keras' crossentropies, not from logits."""
        if type(self.loss) in _CROSSENTROPIES:  # A subclass may do as it likes.
            return not self.loss.from_logits
        return self.loss in _CROSSENTROPY_FUNCTIONS

    @property
    def is_elementwise(self) -> bool:
        """Whether it is one of Keras' that compares like with like."""
        own = isinstance(self.loss, keras.losses.Loss)
        module = (type(self.loss) if own else self.loss).__module__
        return module.startswith("keras.") and not self.takes_labels

    def __call__(self, targets, outputs) -> tf.Tensor:
        """Returns one value per example, shape `(batch,)`, float32 or 64."""
        is_object = isinstance(self.loss, keras.losses.Loss)
        function = self.loss.call if is_object else self.loss
        targets, outputs = _of_one_rank(targets, outputs)
        if is_object and not (self.takes_labels or targets.dtype.is_floating):
            targets = tf.cast(targets, outputs.dtype)  # As `Loss.__call__`.
        values = tf.convert_to_tensor(function(targets, outputs))
        if len(values.shape) == 0:
            raise ValueError(
                "`loss` must return one value per example, so that the inner "
                "loop can sum or average them. Received: a function that "
                "returns a scalar. Leave the reduction out of it."
            )
        several = values.shape[1:].num_elements() != 1
        if self._sums_values and several:
            raise ValueError(
                'A loss of reduction="sum" that has several values for an '
                "example would sum them, too. Received: values of shape "
                f"{values.shape}. Say by `inner_reduction` what is meant: "
                '"sum" is of the examples, and of their values the mean.'
            )
        axes = list(range(1, len(values.shape)))
        return tf.reduce_mean(values, axes) if axes else values

    def reduce(self, values) -> tf.Tensor:
        """The scalar that the inner optimizer descends."""
        by_sum = self.reduction == "sum"
        return (tf.reduce_sum if by_sum else tf.reduce_mean)(values)


def check_not_masked(outputs) -> None:
    """Refuses outputs of which some are not to count.

    Raises:
        ValueError: That says what to do.
    """
    if getattr(outputs, "_keras_mask", None) is not None:
        raise ValueError(
            "The outputs must not be masked, as a mean over some of an "
            "example's values is no mean over its batch. Received: outputs "
            f"of shape {outputs.shape} with a mask. Take one output for each "
            "example, or leave `mask_zero` out of the Embedding."
        )


def _of_one_rank(targets, outputs):
    """Adds an axis of one value where the other has it, as Keras does."""
    if outputs.shape[-1:] == (1,) and len(targets.shape) == 1:
        targets = targets[:, tf.newaxis]
    elif targets.shape[1:] == (1,) and len(outputs.shape) == 1:
        outputs = outputs[:, tf.newaxis]
    return targets, outputs

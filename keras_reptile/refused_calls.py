"""Methods of `keras.Model` that would mislead in a MetaModel: refused."""

import keras
import numpy as np


class RefusesOtherCalls:
    """Mixed into `MetaModel`, in place of what Keras would do."""

    def predict(self, x: object, *args, **kwargs) -> np.ndarray:
        """`keras.Model.predict` with the weights as they stand, not adapted.

        Args:
            x: As `keras.Model.predict` takes it.
            *args: As Keras has them.
            **kwargs: Likewise.

        Returns:
            The outputs.

        Raises:
            ValueError: If the model has batch normalisation that is trained,
                of which meta-training leaves the moving averages as they were.
        """
        self._check_predicts()
        return super().predict(x, *args, **kwargs)

    def predict_on_batch(self, x: object) -> np.ndarray:
        """`predict` of one batch."""
        self._check_predicts()
        return super().predict_on_batch(x)

    def _check_predicts(self):
        norms = [
            layer.name
            for layer in self.inner_model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
            and layer.trainable
        ]
        if norms:
            raise ValueError(
                "The initialisation that is learned predicts nothing by "
                "itself: its batch normalisation has moving averages that "
                "meta-training leaves as they were. Received: "
                f"`predict` of a model with {', '.join(norms)}. Use what "
                "`adapt` returns, or `kr.evaluate` for few-shot accuracy."
            )

    def train_on_batch(self, *args, **kwargs) -> None:
        """Not of a MetaModel, whose meta-steps are those of a `fit`.

        Raises:
            ValueError: Always, with what to do.
        """
        raise ValueError(
            "A MetaModel takes datasets of Tasks. Received: a call of "
            "`train_on_batch` or `test_on_batch`. Use `fit` or `evaluate` on "
            "tf.data.Dataset.from_tensors(tasks)."
        )

    test_on_batch = train_on_batch

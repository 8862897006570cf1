"""What a `.keras` file holds of a MetaModel, beyond what Keras finds itself.

The inner model, both optimizers with their slots, and the settings of
`compile`, so that a loaded model trains on bitwise as the saved one would.
"""

from collections.abc import Mapping, MutableMapping

import keras

from keras_reptile import algorithms
from keras_reptile.seeds import is_seed
from keras_reptile.stateless import without_decay

_OPTIMIZERS = ("optimizer", "inner_optimizer")
_UNDECAYED = "_without_decay"
_LABELS = "labels_that_are_fixed"


class SavesBothLoops:
    """Mixed into `MetaModel`: Keras' methods of saving and loading."""

    def _seeds(self):
        """Dropout's seeds, which Keras leaves out of `.keras` files."""
        variables = self.inner_model.non_trainable_variables
        return [v for v in variables if is_seed(v)]

    def save_own_variables(self, store: MutableMapping) -> None:
        for i, seed in enumerate(self._seeds()):
            store[str(i)] = seed.numpy()

    def load_own_variables(self, store: Mapping) -> None:
        for i, seed in enumerate(self._seeds()):
            seed.assign(store[str(i)])

    def get_config(self) -> dict:
        return {
            "model": keras.saving.serialize_keras_object(self.inner_model),
            "algorithm": algorithms.serialize(self.algorithm),
            "inner_state": self.inner_state,
            "name": self.name,
            **({} if self.labels is None else {_LABELS: self.labels}),
        }

    @classmethod
    def from_config(cls, config: dict) -> "SavesBothLoops":
        config = dict(config)
        for key in ("model", "algorithm"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        labels = config.pop(_LABELS, None)
        model = cls(**config)
        model.labels = labels
        return model

    def get_compile_config(self) -> dict | None:
        if not self.compiled:
            return None
        config = {
            key: keras.saving.serialize_keras_object(value)
            for key, value in self._compile_settings.items()
        }
        trainable = self.inner_model.trainable_variables
        for name in _OPTIMIZERS:
            optimizer = self._compile_settings[name]
            config[name + _UNDECAYED] = without_decay(optimizer, trainable)
        return config

    def compile_from_config(self, config: dict) -> None:
        # Files of before have them not.
        undecayed = {n: config.pop(n + _UNDECAYED, []) for n in _OPTIMIZERS}
        arguments = keras.saving.deserialize_keras_object(config)
        trainable = self.inner_model.trainable_variables
        for name, indices in undecayed.items():
            if indices:
                arguments[name].exclude_from_weight_decay(
                    var_list=[trainable[i] for i in indices]
                )
        self.compile(**arguments)

    def get_build_config(self) -> None:
        return None

    def build_from_config(self, config: dict | None) -> None:
        """The inner model comes built."""

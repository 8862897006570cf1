"""What a run measures of its model as it goes, under the names of its logs."""

from keras_reptile import fixed_labels, held_out, settings
from keras_reptile.analysis.agreement import Probe
from keras_reptile.evaluation import check_kinds, check_protocol, evaluate


class Measurements:
    """Few-shot accuracy on held-out classes, and the agreement of gradients.

    Args:
        validation: Classes to evaluate on, or `None`.
        protocol: How; belongs to them.
        gradient_agreement: Whether that is measured.

    Raises:
        ValueError: If only one of `validation` and `protocol` is given, or
            something else.
    """

    def __init__(self, validation, protocol, gradient_agreement: bool):
        if (validation is None) != (protocol is None):
            raise ValueError(
                "`validation` and `protocol` belong together: classes, and how "
                f"to evaluate on them. Received: validation={validation!r}, "
                f"protocol={protocol!r}."
            )
        if protocol is not None:
            check_kinds(validation, protocol)
        self._validation, self._protocol = validation, protocol
        self.of_gradients = gradient_agreement
        self._probe = None

    def begin(self, model, x) -> None:
        """Refuses what cannot be measured, before training.

        Args:
            model: A compiled `MetaModel`.
            x: The episodes it is to be trained on.

        Raises:
            ValueError: If the validation classes do not suit the model or
                the protocol, or have other labels than those trained on.
        """
        if self._validation is not None:
            check_protocol(model, self._validation, self._protocol)
            fixed_labels.check_same_labels(
                fixed_labels.of_stream(x),
                getattr(self._validation, "labels", None),
            )
            held_out.warn_of_training_classes(
                getattr(x, "classes", None), self._validation, "the MetaTrainer"
            )
        if self.of_gradients:
            self._probe = Probe.from_stream(model.learner, x)

    @property
    def names(self) -> list:
        """Of the accuracies that it measures, without their intervals."""
        modes = () if self._protocol is None else self._protocol.modes
        return [self._name(mode) for mode in modes]

    def _name(self, mode):
        first = mode == self._protocol.modes[0]
        return "val_accuracy" + ("" if first else f"_{mode}")

    @property
    def settings(self) -> dict:
        """What accuracies that are compared must have in common."""
        if self._protocol is None:
            return {}
        return settings.of_protocol(self._protocol, self._validation)

    def of(self, model, stop) -> dict | None:
        """Measures a model, which is left as it is.

        Args:
            model: As given to `begin`.
            stop: As `kr.evaluate` has it.

        Returns:
            Numbers by name; `None` if it was given up.
        """
        scalars = {}
        if self._validation is not None:
            scores = evaluate(model, self._validation, self._protocol, stop)
            if scores is None:
                return None
            for mode, score in scores.items():
                name = self._name(mode)
                scalars[name] = score.mean
                scalars[f"{name}_ci95"] = score.ci95
                scalars["val_accuracy_before"] = score.mean_before
        if self._probe is not None:
            if stop():
                return None
            scalars |= self.agreement()
        return scalars

    def agreement(self) -> dict:
        """That of gradients by name, where it is measured, as they stand."""
        if self._probe is None:
            return {}
        agreement = self._probe.measure()._asdict()
        return {f"gradient_{name}": v for name, v in agreement.items()}

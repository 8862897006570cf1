"""Accuracies of many episodes, their mean and its interval."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scores:
    """Accuracies of one mode, as fractions in [0, 1].

    `per_episode` has shape `(num_episodes,)`. `mean_before` is the accuracy
    of the weights before adaptation, with the query examples in one pass.
    """

    per_episode: np.ndarray
    mean_before: float

    @property
    def mean(self) -> float:
        """The mean over the episodes."""
        return float(self.per_episode.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % confidence interval of the mean."""
        return confidence_interval(self.per_episode)

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self.per_episode)

    def __str__(self):
        return (
            f"{100 * self.mean:.2f} +- {100 * self.ci95:.2f} % "
            f"({self.num_episodes} episodes)"
        )


def confidence_interval(accuracies) -> float:
    """Half-width of the 95 % confidence interval of the mean.

    Args:
        accuracies: Shape `(num_episodes,)`, as fractions in `[0, 1]`, or
            another measure of as many episodes.

    Returns:
        A float in the same unit: 0.004 reads as "plus or minus 0.4 points".
        Uses the normal approximation `1.96 * s / sqrt(num_episodes)`, with
        `s` the sample standard deviation (ddof=1).

    Raises:
        ValueError: With fewer than two episodes.
    """
    accuracies = np.asarray(accuracies, np.float64)
    if len(accuracies) < 2:
        raise ValueError(
            "An interval needs at least two episodes. Received: "
            f"{len(accuracies)}."
        )
    return float(1.96 * accuracies.std(ddof=1) / np.sqrt(len(accuracies)))

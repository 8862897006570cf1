"""How few-shot accuracy is measured."""

import dataclasses

from keras_reptile.episodes import EpisodeSpec
from keras_reptile.inner_variables import InnerVariables
from keras_reptile.integers import check_integer

# As `keras_reptile.evaluation` explains them.
MODES = ("inductive", "transductive")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How few-shot accuracy is measured.

    Args:
        ways: Classes per episode.
        shots: Support examples per class.
        queries: Query examples per class.
        inner_steps: Inner steps; 50 in the paper.
        inner_batch_size: Support examples per inner step; `None` takes all.
        replacement: How inner batches are drawn, see `EpisodeSpec`.
        repeat_within_batch: Allows an inner batch larger than the support
            set, see `EpisodeSpec`.
        modes: Which of `"inductive"` and `"transductive"` to report. Both
            cost little more than one, as the adaptation is shared.
        num_episodes: How many episodes.
        seed: Of the episodes; never those of a training stream.
        inner_variables: Which variables adapt, as in `MetaModel.compile`;
            `None` are those that do in training.

    Raises:
        ValueError: If a number is out of range or a mode unknown.
    """

    ways: int
    shots: int
    queries: int = 1
    inner_steps: int = 50
    inner_batch_size: int | None = None
    replacement: bool = False
    repeat_within_batch: bool = False
    modes: str | tuple[str, ...] = MODES
    num_episodes: int = 1_000
    seed: int = 0
    inner_variables: InnerVariables = None

    def __post_init__(self):
        modes = (self.modes,) if isinstance(self.modes, str) else self.modes
        if not isinstance(modes, (tuple, list)) or not (
            modes and all(mode in MODES for mode in modes)
        ):
            raise ValueError(
                f"`modes` must be some of {MODES}. Received: {modes!r}."
            )
        object.__setattr__(self, "modes", tuple(modes))
        why = " With one class every answer is right."
        check_integer("ways", self.ways, 2, why)
        why = " An interval needs at least two episodes."
        check_integer("num_episodes", self.num_episodes, 2, why)
        # An unsigned one of NumPy's has no negative to count with.
        object.__setattr__(self, "num_episodes", int(self.num_episodes))
        why = " An accuracy needs at least one query example per class."
        check_integer("queries", self.queries, 1, why)
        check_integer("seed", self.seed, 0)
        object.__setattr__(self, "seed", int(self.seed))
        _ = self.spec  # Which checks the rest.

    @property
    def spec(self) -> EpisodeSpec:
        """The episodes that are drawn."""
        return EpisodeSpec(
            self.ways,
            self.shots,
            self.queries,
            self.inner_steps,
            self.inner_batch_size,
            self.replacement,
            self.repeat_within_batch,
        )

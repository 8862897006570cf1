"""Classes in groups: one person's letters, one machine's conditions.

An episode takes its classes from one group, so that what is learned is to
adapt to a new group, and groups are held out whole.
"""

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from keras_reptile.data.class_checks import checked_indices
from keras_reptile.data.classes import ClassDataset
from keras_reptile.data.group_checks import check_fixed_labels, check_groups
from keras_reptile.episodes import EpisodeSpec, draw_indices
from keras_reptile.integers import check_integer

_OF_NAMES = " That of a name is `people.groups.index(name)`, for such data."


def from_groups(
    groups: Mapping[str, ClassDataset], fixed_labels: bool = False
) -> "GroupedClasses":
    """Classes of which an episode takes those of one group only.

    Args:
        groups: The classes of each group, by its name. Their order is that of
            the indices of `subset`; a `set` has another one in every process.
        fixed_labels: Whether a class has the same label in all groups, as
            the letter a has in everybody's handwriting. All groups then have
            classes of the same names, all of them are in every episode
            (`ways` is their number), and the label of one is its place in
            `labels`, for `adapt`, too. Otherwise labels are in the order
            drawn, as ever.

    Returns:
        `GroupedClasses`, with a copy of the examples.

    Raises:
        ValueError: If there are no groups, one is made of groups itself, they
            hold examples of different shapes or dtypes, or, with
            `fixed_labels`, other classes.

    Example:

    ```python
    writers = kr.data.from_groups(
        {
            name: kr.data.from_arrays(x[writer == name], y[writer == name])
            for name in np.unique(writer)
        },
        fixed_labels=True,
    )
    train, test = writers.subset(range(80)), writers.subset(range(80, 100))
    ```
    """
    return GroupedClasses(groups, fixed_labels)


class GroupedClasses(ClassDataset):
    """What `from_groups` returns: classes whose episodes are of one group.

    A group is drawn for each episode, all alike, and then its classes, whose
    names are `<group>/<class>`.

    Args:
        groups: As `from_groups` has it.
        fixed_labels: Likewise.

    Raises:
        ValueError: Likewise.
    """

    def __init__(
        self, groups: Mapping[str, ClassDataset], fixed_labels: bool = False
    ):
        check_groups(groups)
        if not isinstance(fixed_labels, bool):
            raise ValueError(
                f"`fixed_labels` must be True or False. Received: "
                f"{fixed_labels!r:.80}. Labels are in the order that the "
                "classes of the groups have."
            )
        if fixed_labels:
            check_fixed_labels(groups)
        self.groups = list(groups)
        self.fixed_labels = fixed_labels
        parts = groups.values()
        super().__init__(
            np.concatenate([part.x for part in parts]),
            np.concatenate([part.counts for part in parts]),
            [
                f"{g}/{name}"
                for g, part in groups.items()
                for name in part.names
            ],
        )
        sizes = [part.num_classes for part in parts]
        self._group_of = np.repeat(np.arange(len(sizes), dtype="int32"), sizes)
        self._names = [list(part.names) for part in parts]

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return len(self.groups)

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes, in order; `None` where they are not fixed."""
        return list(map(str, self._names[0])) if self.fixed_labels else None

    def _checksum(self):
        checksum = zlib.crc32(self._group_of, super()._checksum())
        return zlib.crc32(bytes([self.fixed_labels]), checksum)

    def __repr__(self):
        labels = f", labels {self.labels!s:.60}" if self.fixed_labels else ""
        return (
            f"GroupedClasses({self.num_groups} groups, {self.num_classes} "
            f"classes, {len(self.x)} examples of shape {self.example_shape}"
            f"{labels})"
        )

    def group(self, index: int) -> ClassDataset:
        """The classes of one group; uint8 is not copied.

        Args:
            index: Of the group, from 0.

        Returns:
            A `ClassDataset`, its classes named without the group's name, and
            their labels not fixed; for episodes take `subset([index])`.

        Raises:
            ValueError: If there is no such group.
        """
        check_integer("index", index, 0, _OF_NAMES)
        if index >= self.num_groups:
            raise ValueError(
                f"`index` must be below {self.num_groups}, the number of "
                f"groups. Received: {index}."
            )
        of_group = self._group_of == index
        first = self.counts[self._group_of < index].sum()
        counts = self.counts[of_group]
        x = self.x[first : first + counts.sum()]
        return ClassDataset(x, counts, self._names[index])

    def subset(self, indices: ArrayLike) -> "GroupedClasses":
        """The groups of the given indices, in the given order.

        Args:
            indices: Integers, names that are strings, or a boolean for each
                group.

        Returns:
            `GroupedClasses` of their own, with a copy of the examples. Classes
            are left out before they are grouped.

        Raises:
            ValueError: If there are none, one is not there or comes twice.
        """
        indices = checked_indices(indices, self.groups, ("group", "groups"))
        return GroupedClasses(
            {self.groups[i]: self.group(i) for i in indices}, self.fixed_labels
        )

    def check(self, spec: EpisodeSpec) -> None:
        """Refuses episodes that a group cannot give.

        Args:
            spec: The shape of an episode.

        Raises:
            ValueError: If a group has fewer classes than ways (or, with
                `fixed_labels`, more), or a class has fewer examples than an
                episode takes.
        """
        sizes = np.bincount(self._group_of)
        fewest = int(sizes.argmin())
        if self.fixed_labels and spec.ways != sizes[0]:
            raise ValueError(
                "With fixed labels an episode has all classes of a group. "
                f"Received: ways={spec.ways}, where groups have {sizes[0]}. "
                f"Pass ways={sizes[0]}."
            )
        if spec.ways > sizes[fewest]:
            raise ValueError(
                "An episode needs `ways` distinct classes of one group. "
                f"Received: ways={spec.ways}, but group "
                f"'{self.groups[fewest]}' has {sizes[fewest]}. Lower `ways`, "
                "or leave out small groups with `subset`."
            )
        self._check_examples(spec, "with `subset` before they are grouped")

    def _draw_indices(self, spec, seed, episode):
        groups, in_order = self._group_of, self.fixed_labels
        return draw_indices(self.counts, spec, seed, episode, groups, in_order)

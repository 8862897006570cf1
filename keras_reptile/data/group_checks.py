"""Refuses groups of classes of which no episodes can be made."""

from collections import Counter
from collections.abc import Mapping

from keras_reptile.data.classes import ClassDataset
from keras_reptile.fixed_labels import some


def check_groups(groups) -> None:
    """Refuses what is no dict of the classes of each group.

    Raises:
        ValueError: That says which group is at fault.
    """
    example = "{name: kr.data.from_arrays(x, y)}"
    if not isinstance(groups, Mapping) or not groups:
        raise ValueError(
            "`groups` must be a dict of the classes of each group, such as "
            f"{example}. Received: {groups!r:.80}."
        )
    for name, part in groups.items():
        if not isinstance(part, ClassDataset):
            raise ValueError(
                "The classes of a group must be a ClassDataset, as in "
                f"{example}. Received: {type(part).__name__} for '{name}'."
            )
        if hasattr(part, "groups"):  # Its class imports this module.
            raise ValueError(
                "A group must be of classes, not of groups. Received: "
                f"{type(part).__name__} for '{name}'. To join some, take "
                "their groups one by one: {n: some.group(i) for i, n in "
                "enumerate(some.groups)}."
            )
    first, *others = groups.items()
    for name, part in others:
        here, there = (
            (str(p.x.dtype), p.example_shape) for p in (part, first[1])
        )
        if here != there:
            raise ValueError(
                "Examples of all groups must have one dtype and shape. "
                f"Received: {here[0]} of shape {here[1]} in group '{name}', "
                f"and {there[0]} of shape {there[1]} in '{first[0]}'."
            )


def check_fixed_labels(groups: Mapping[str, ClassDataset]) -> None:
    """Refuses groups that have not all classes in common, in one order.

    Raises:
        ValueError: That says what some of them lack.
    """
    (first, classes), *others = groups.items()
    names = [str(name) for name in classes.names]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            "With fixed labels each class must have a name of its own. "
            f"Received: '{twice[0]}' more than once in group '{first}'."
        )
    everywhere = set(names).union(*(map(str, p.names) for _, p in others))
    lacking = {
        group: sorted(everywhere - set(map(str, part.names)))
        for group, part in groups.items()
    }
    lacking = {group: lacks for group, lacks in lacking.items() if lacks}
    if lacking:
        group, lacks = next(iter(lacking.items()))
        raise ValueError(
            "With fixed labels all groups must have the same classes. Received:"
            f" {len(lacking)} of {len(groups)} groups lack some of "
            f"{some(sorted(everywhere))}; '{group}' lacks {some(lacks)}. "
            "Choose the classes, `labels`, and keep the groups that have them: "
            "{name: part.subset(labels) for name, part in groups.items() if "
            "set(labels) <= set(part.names)}."
        )
    for group, part in others:
        if [str(name) for name in part.names] != names:
            raise ValueError(
                "With fixed labels all groups must have the same classes once "
                "each and in the same order. Received: another order in "
                f"'{group}' than in '{first}'. Take `part.subset(labels)` of "
                "each."
            )

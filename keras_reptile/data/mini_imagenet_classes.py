"""The classes of mini-ImageNet, and whether a folder or pickle holds them.

Source: Ravi & Larochelle 2017, "Optimization as a Model for Few-Shot
Learning", the lists published with it.
"""

# Of a class. The published lists lack one to three images of a few classes,
COUNTS = range(597, 601)
# and no more than these, of a split.
LISTED = {"train": 38_392, "val": 9_593, "test": 11_996}
# By their WordNet identifiers.
WNIDS = {
    "train": """
        n01532829 n01558993 n01704323 n01749939 n01770081 n01843383
        n01910747 n02074367 n02089867 n02091831 n02101006 n02105505
        n02108089 n02108551 n02108915 n02111277 n02113712 n02120079
        n02165456 n02457408 n02606052 n02687172 n02747177 n02795169
        n02823428 n02966193 n03017168 n03047690 n03062245 n03207743
        n03220513 n03337140 n03347037 n03400231 n03476684 n03527444
        n03676483 n03838899 n03854065 n03888605 n03908618 n03924679
        n03998194 n04067472 n04243546 n04251144 n04258138 n04275548
        n04296562 n04389033 n04435653 n04443257 n04509417 n04515003
        n04596742 n04604644 n04612504 n06794110 n07584110 n07697537
        n07747607 n09246464 n13054560 n13133613
    """.split(),
    "val": """
        n01855672 n02091244 n02114548 n02138441 n02174001 n02950826
        n02971356 n02981792 n03075370 n03417042 n03535780 n03584254
        n03770439 n03773504 n03980874 n09256479
    """.split(),
    "test": """
        n01930112 n01981276 n02099601 n02110063 n02110341 n02116738
        n02129165 n02219486 n02443484 n02871525 n03127925 n03146219
        n03272010 n03544143 n03775546 n04146614 n04149813 n04418357
        n04522168 n07613480
    """.split(),
}


def check_classes(counts, paths, classes, named=True) -> None:
    """Refuses splits that are not those of the paper, or share classes.

    Args:
        counts: Images by class, by split.
        paths: Where each split was found.
        classes: As `mini_imagenet` has it.
        named: Whether the classes have names that mean anything.

    Raises:
        ValueError: As `mini_imagenet` says.
    """
    for split, found in counts.items():
        empty = [name for name, count in found.items() if not count]
        if not found or empty:
            raise ValueError(
                "Expected folders of classes with images in them. Received: "
                f"{paths[split]}, with "
                + (f"no images in {some(empty)}." if found else "no folder.")
            )
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = sorted(set(counts[first]) & set(counts[second]))
        if shared:
            raise ValueError(
                "A class belongs to one split, or it would be tested on what "
                f"was trained on. Received: {some(shared)} in both "
                f"{paths[first]} and {paths[second]}."
            )
    if classes == "paper":
        for split, found in counts.items():
            _check_paper(split, found, paths[split], named)


def _check_paper(split, found, path, named):
    anyway = 'If that is what you mean to use, pass classes="any".'
    expected = WNIDS[split]
    if named and set(found) != set(expected) or len(found) != len(expected):
        missing = sorted(set(expected) - set(found)) if named else []
        others = sorted(set(found) - set(expected)) if named else []
        raise ValueError(
            f"Expected the paper's {len(expected)} classes of {split}. "
            f"Received: {path}, with {len(found)} classes"
            + (f"; missing are {some(missing)}" if missing else "")
            + (f"; not of the paper are {some(others)}" if others else "")
            + f". {anyway}"
        )
    wrong = [f"{n} ({c})" for n, c in found.items() if c not in COUNTS]
    if wrong:
        raise ValueError(
            f"Expected {COUNTS[0]} to {COUNTS[-1]} images of each class. "
            f"Received: {path}, with {some(wrong)}. Put the missing ones "
            f"there, or only those that the paper lists. {anyway}"
        )
    total = sum(found.values())
    if total < LISTED[split]:
        fewer = [f"{n} ({c})" for n, c in found.items() if c < COUNTS[-1]]
        raise ValueError(
            f"Expected the {LISTED[split]:,} images of {split} that the paper "
            f"lists, or more of the same classes. Received: {path}, with "
            f"{total:,}; fewer than {COUNTS[-1]} are in {some(fewer)}. Put the "
            f"missing ones there. {anyway}"
        )


def some(names, most: int = 10) -> str:
    """The first of a list of names, and how many there are besides."""
    more = len(names) - most
    # Names out of a file may be of any length, and of any characters.
    shown = ", ".join(
        name if name.isprintable() and len(name) <= 80 else f"{name[:80]!r}..."
        for name in names[:most]
    )
    return shown + (f" and {more} more" if more > 0 else "")

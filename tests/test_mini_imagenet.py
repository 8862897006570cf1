"""Mini-ImageNet on small trees and pickles of the same layout."""

import os
import pathlib
import pickle
import pwd
import threading
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_reptile as kr
from keras_reptile.data import image_files
from keras_reptile.data.mini_imagenet_classes import WNIDS, check_classes

EXTENT = 84
SIZES = ((60, 91), (84, 84), (100, 75), (37, 160))


def picture(rng, height, width, channels=3):
    """Smooth patches, as JPEG can hold them."""
    small = rng.integers(0, 256, (height // 9 + 2, width // 9 + 2, channels))
    large = tf.image.resize(small, (height, width), method="bilinear")
    return np.asarray(large).astype("uint8")


def write_tree(root, classes=2, images=3, seed=0):
    """A tree of the paper's first classes, with images of several shapes."""
    rng = np.random.default_rng(seed)
    for split, wnids in WNIDS.items():
        for wnid in wnids[:classes]:
            folder = root / split / wnid
            folder.mkdir(parents=True)
            for i in range(images):
                image = picture(rng, *SIZES[i % len(SIZES)])
                content = tf.io.encode_jpeg(image).numpy()
                (folder / f"{wnid}_{i}.JPEG").write_bytes(content)
    return root


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "tree")


@pytest.fixture
def load(tmp_path):
    """The loader for trees that are not the whole of mini-ImageNet."""

    def load(data_dir, classes="any", **arguments):
        return kr.data.mini_imagenet(
            data_dir, classes=classes, cache_dir=tmp_path / "cache", **arguments
        )

    return load


def one(tree, split="train", number=0):
    return sorted(tree.glob(f"{split}/*/*.JPEG"))[number]


def test_the_papers_classes():
    assert [len(wnids) for wnids in WNIDS.values()] == [64, 16, 20]
    every = [wnid for wnids in WNIDS.values() for wnid in wnids]
    assert len(set(every)) == 100
    assert all(len(wnid) == 9 and wnid[0] == "n" for wnid in every)


def test_a_tree_gives_classes_in_the_order_of_their_names(tree, load):
    splits = load(tree)
    for classes, split in zip(splits, WNIDS):
        assert classes.names == WNIDS[split][:2]
        assert classes.x.shape == (6, EXTENT, EXTENT, 3)
        assert classes.x.dtype == np.uint8
    assert isinstance(splits, kr.data.Splits)
    with Image.open(one(tree, "val", 4)) as image:
        small = image.resize((EXTENT, EXTENT), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(splits.validation.x[4], small)
    task = splits.test.episode(kr.EpisodeSpec(ways=2, shots=2))
    assert task.support.x.shape == (4, EXTENT, EXTENT, 3)
    assert 0 <= task.support.x.numpy().min() < task.support.x.numpy().max() <= 1


def test_nearest_takes_the_pixels_that_pil_takes():
    borders = 0
    centres = 2 * np.arange(EXTENT) + 1
    for size in range(1, 1500):
        indices = image_files.nearest_indices(size, EXTENT)
        line = Image.fromarray(np.arange(size, dtype="int32")[np.newaxis])
        line = line.resize((EXTENT, 1), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(indices, np.asarray(line)[0])
        # And by the rule, floor((i + .5) size / 84), where that is no tie.
        other = indices != centres * size // (2 * EXTENT)
        borders += other.sum()
        assert not (centres[other] * size % (2 * EXTENT)).any()
    assert borders  # PIL's rounding matters.


@pytest.mark.parametrize("height, width", [(375, 500), (61, 400), (84, 30)])
def test_resizing_is_pils(height, width):
    image = picture(np.random.default_rng(0), height, width)
    for name, resampling, most in (
        ("nearest", Image.Resampling.NEAREST, 0),
        ("bicubic", Image.Resampling.BICUBIC, 1),
    ):
        expected = Image.fromarray(image).resize((EXTENT, EXTENT), resampling)
        received = image_files.RESIZES[name](image, EXTENT)
        assert received.dtype == np.uint8
        difference = received.astype(int) - np.asarray(expected, int)
        assert abs(difference).max() <= most, name


@pytest.mark.parametrize(
    "mode, kind, settings",
    [
        ("RGB", "JPEG", {"progressive": True}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {}),
    ],
)
def test_every_colour_ends_up_as_pils_rgb(tmp_path, mode, kind, settings):
    # PNG under the name of a JPEG is one of ImageNet's own oddities.
    path = tmp_path / "image.JPEG"
    image = Image.fromarray(picture(np.random.default_rng(1), 70, 90))
    image.convert(mode).save(path, kind, **settings)
    decoded, problem = image_files.decode(path, "nearest", EXTENT)
    assert problem is None
    with Image.open(path) as image:
        expected = image.resize((EXTENT, EXTENT), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(decoded, expected.convert("RGB"))


def test_bicubic_by_name(tree, load):
    nearest, bicubic = load(tree), load(tree, resize="bicubic")
    assert (nearest.train.x != bicubic.train.x).any()
    # 84 by 84 is left as it is by both.
    np.testing.assert_array_equal(nearest.train.x[1], bicubic.train.x[1])


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"resize": "bilinear"}, "bicubic.*nearest.*'bilinear'"),
        ({"classes": "mine"}, "\"any\".*'mine'"),
    ],
)
def test_unknown_arguments_are_refused(tree, load, arguments, text):
    with pytest.raises(ValueError, match=text):
        load(tree, **arguments)


def test_files_that_cannot_be_read_are_named_together(tree, load):
    whole = one(tree).read_bytes()
    bad = {
        one(tree, "train", 0): (whole[: len(whole) // 2], "truncated"),
        one(tree, "train", 4): (whole[:-2], "truncated"),
        one(tree, "val", 1): (b"", "empty"),
        one(tree, "test", 2): (b"<html>404</html>", "no JPEG or PNG"),
        one(tree, "test", 5): (whole[:200] + bytes(len(whole)), "truncated"),
    }
    for path, (content, _) in bad.items():
        path.write_bytes(content)
    with pytest.raises(ValueError, match="5 that cannot be read") as error:
        load(tree)
    for path, (_, reason) in bad.items():
        assert f"{path}: {reason}" in str(error.value)
    assert "Get them again" in str(error.value)


def test_of_many_bad_files_ten_are_named(tree, load):
    for path in tree.glob("*/*/*.JPEG"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="(?s)18 that.*and 8 more"):
        load(tree)


def header_of(width, height):
    """The start of a PNG, which is all that its size can be seen by."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + b"\1\0\0\0\0" + bytes(4)


def test_files_that_stand_for_too_many_pixels_are_named(tree, load):
    png, jpeg = one(tree, "train", 0), one(tree, "val", 1)
    png.write_bytes(header_of(20_000, 10_000))
    content = jpeg.read_bytes()
    size = content.index(b"\xff\xc0") + 5
    huge = content[:size] + b"\xc3\x50" * 2 + content[size + 4 :]
    jpeg.write_bytes(huge)
    one(tree, "test", 2).write_bytes(header_of(20_000, 10_000)[:20])
    with pytest.raises(ValueError, match="3 that cannot be read") as error:
        load(tree)
    assert f"{png}: 20000 by 10000, above 50,000,000" in str(error.value)
    assert f"{jpeg}: 50000 by 50000, above 50,000,000" in str(error.value)


def test_as_many_pixels_as_may_be(tree, load, monkeypatch):
    monkeypatch.setattr(image_files, "MOST_PIXELS", 100 * 75)
    load(tree)
    monkeypatch.setattr(image_files, "MOST_PIXELS", 60 * 91)
    path = tree.parent / "image.JPEG"
    for width, problem in ((91, None), (92, "92 by 60, above 5,460 pixels")):
        image = picture(np.random.default_rng(4), 60, width)
        for encode in (tf.io.encode_jpeg, tf.io.encode_png):
            path.write_bytes(encode(image).numpy())
            assert image_files.decode(path, "nearest", EXTENT)[1] == problem


def test_a_pipe_is_not_waited_for(tree, load):
    pipe = tree / "val" / WNIDS["val"][0] / "pipe.JPEG"
    os.mkfifo(pipe)
    # So that whoever does read it comes to an end.
    writer = threading.Thread(target=pipe.write_bytes, args=(b"",))
    writer.start()
    try:
        with pytest.raises(ValueError, match="pipe.JPEG: no file but a pipe"):
            load(tree)
    finally:
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        writer.join()


def test_folders_that_may_not_be_listed_are_named(tree, load, monkeypatch):
    # Root may list every folder, and tests may be root's.
    closed = [tree / "val" / WNIDS["val"][0], tree / "test"]
    iterdir = pathlib.Path.iterdir

    def refusing(path):
        if path in closed:
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(pathlib.Path, "iterdir", refusing)
    for classes in ("any", "paper"):
        with pytest.raises(ValueError, match="2 that cannot be read") as error:
            load(tree, classes=classes)
        for path in closed:
            assert f"{path}: Permission denied" in str(error.value)
    closed.append(tree.parent)
    with pytest.raises(ValueError, match="cannot be listed .Permission denied"):
        load(tree.parent)


def test_a_link_that_leads_nowhere_is_a_bad_file(tree, load):
    link = tree / "val" / WNIDS["val"][0] / "link.jpg"
    link.symlink_to(tree / "absent.jpg")
    with pytest.raises(ValueError, match="link.jpg: No such file"):
        load(tree)
    link.unlink()
    link.symlink_to(one(tree))
    assert load(tree).validation.counts.tolist() == [4, 3]


def test_odd_trees(tree, load):
    folder = tree / "train" / WNIDS["train"][0]
    other = one(tree, "train", 3).read_bytes()
    (folder / ".hidden.JPEG").write_bytes(b"")
    (folder / "._n0_1.JPEG").write_bytes(b"what macOS leaves")
    (folder / "notes.txt").write_text("notes")
    (folder / "nested.JPEG").mkdir()
    (tree / "train.csv").write_text("filename,label")
    (tree / "train" / "labels.csv").write_text("")
    (tree / "train" / ".cache").mkdir()
    (folder / "upper.JPG").write_bytes(other)
    (folder / "lower.jpeg").write_bytes(other)
    image = picture(np.random.default_rng(2), 50, 50)
    (folder / "another.PNG").write_bytes(tf.io.encode_png(image).numpy())
    assert load(tree).train.counts.tolist() == [6, 3]


def test_the_cache_notices_a_changed_file(tree, load, tmp_path, monkeypatch):
    first = load(tree)
    decode_all = image_files.decode_all
    monkeypatch.setattr(image_files, "decode_all", None)
    again = load(tree)  # Without decoding.
    np.testing.assert_array_equal(first.train.x, again.train.x)
    monkeypatch.setattr(image_files, "decode_all", decode_all)
    image = picture(np.random.default_rng(3), 90, 90)
    one(tree).write_bytes(tf.io.encode_jpeg(image).numpy())
    changed = load(tree)
    assert (changed.train.x[0] != first.train.x[0]).any()
    np.testing.assert_array_equal(changed.train.x[1:], first.train.x[1:])
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    np.testing.assert_array_equal(load(tree).train.x, changed.train.x)


def kept(folder):
    return {path.name for path in folder.iterdir()}


def touch(tree, split="train"):
    path = one(tree, split)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))


def test_the_cache_drops_what_a_change_made_useless(tree, load, tmp_path):
    cache = tmp_path / "cache"
    other = write_tree(tmp_path / "other", classes=1)
    load(other)
    load(tree, resize="bicubic")
    stays = kept(cache)
    load(tree)
    first = kept(cache) - stays
    (stem,) = {n.rpartition("-")[0] for n in first if "-train-" in n}
    (cache / f"{stem}-{16 * '0'}.npz").mkdir()  # It cannot be removed.
    partial = cache / ".keras-reptile-partial-1"
    partial.write_text("of a process that was killed long ago")
    os.utime(partial, (0, 0))
    stays.add(f"{stem}-{16 * '0'}.npz")
    others = (f"{stem}.npz", f"{stem}-mine.npz", f"{stem}-{16 * 'f'}.npz.txt")
    for name in others:
        (cache / name).write_text("of another program")
    stays |= set(others)
    assert len(first) == 3
    touch(tree)
    load(tree)
    second = kept(cache) - stays
    assert stays < kept(cache)
    assert len(second) == 3 and len(first & second) == 2
    touch(other)
    load(other)
    assert second | set(others) < kept(cache)


def test_the_cache_drops_nothing_before_it_has_other(tree, load, monkeypatch):
    cache = tree.parent / "cache"
    load(tree)
    before = kept(cache)
    touch(tree)

    def full(*args, **arrays):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        load(tree)
        assert kept(cache) == before
    whole = one(tree).read_bytes()
    one(tree).write_bytes(whole[:100])
    with pytest.raises(ValueError, match="1 that cannot be read"):
        load(tree)
    assert kept(cache) == before
    one(tree).write_bytes(whole)
    load(tree)
    assert len(kept(cache) - before) == 1 and len(kept(cache)) == 3


def test_without_a_home_nothing_is_kept(tree, monkeypatch):
    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for _ in range(2):
        splits = kr.data.mini_imagenet(tree, classes="any")
        assert splits.train.counts.tolist() == [3, 3]


def test_other_classes_than_the_papers_are_named(tree, load):
    with pytest.raises(ValueError, match="missing are n0.*52 more") as error:
        load(tree, classes="paper")
    assert "64 classes of train" in str(error.value)
    assert 'classes="any"' in str(error.value)
    folder = tree / "val" / WNIDS["val"][0]
    folder.rename(tree / "val" / "n99999999")
    counts = {s: dict.fromkeys(WNIDS[s], 600) for s in WNIDS}
    check_classes(counts, WNIDS, "paper")
    counts["val"]["n99999999"] = counts["val"].pop(WNIDS["val"][0])
    with pytest.raises(ValueError, match="not of the paper are n99999999"):
        check_classes(counts, WNIDS, "paper")
    assert load(tree).validation.names[-1] == "n99999999"


@pytest.mark.parametrize("count", [596, 597, 600, 601])
def test_images_of_each_class_are_counted(count):
    counts = {s: dict.fromkeys(WNIDS[s], 600) for s in WNIDS}
    name = WNIDS["test"][3]
    counts["test"][name] = count
    if 597 <= count <= 600:
        check_classes(counts, WNIDS, "paper")
    else:
        text = rf"597 to 600.*{name} \({count}\)"
        with pytest.raises(ValueError, match=text):
            check_classes(counts, WNIDS, "paper")
    check_classes(counts, WNIDS, "any")


def test_a_class_in_two_splits_is_refused(tree, load):
    shared = WNIDS["train"][1]
    (tree / "test" / shared).symlink_to(tree / "train" / shared)
    text = f"{shared} in both .*train and .*test"
    with pytest.raises(ValueError, match=text):
        load(tree)


def test_a_class_without_images_is_named(tree, load):
    # One level too deep, as some archives unpack.
    folder = tree / "test" / WNIDS["test"][0]
    (folder / "images").mkdir()
    for path in folder.glob("*.JPEG"):
        path.rename(folder / "images" / path.name)
    with pytest.raises(ValueError, match=f"no images in {folder.name}"):
        load(tree)
    for split in ("train", "val"):
        (tree / "empty" / split).mkdir(parents=True)
    (tree / "empty" / "test").symlink_to(tree / "test")
    with pytest.raises(ValueError, match="with no folder"):
        load(tree / "empty")


def test_absent_data_says_what_to_put_where(tmp_path, load):
    absent = tmp_path / "absent"
    with pytest.raises(ValueError) as error:
        load(absent)
    for text in (
        f"data_dir='{absent}', which is no folder",
        f"{absent}/train/n01532829/*.JPEG and 63 more folders",
        f"{absent}/val/n01855672/*.JPEG and 15 more folders",
        f"{absent}/test/n01930112/*.JPEG and 19 more folders",
        f"{absent}/mini-imagenet-cache-train.pkl",
        f"{absent}/miniImageNet_category_split_val.pickle",
        "mini_imagenet_classes.py",
    ):
        assert text in str(error.value)
    with pytest.raises(ValueError, match="holds nothing"):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="which lacks val and test"):
        load(tmp_path)
    with pytest.raises(ValueError, match="data_dir=None"):
        load(None)


def images_of(split, count=4):
    rng = np.random.default_rng(list(WNIDS).index(split))
    return rng.integers(0, 256, (count, EXTENT, EXTENT, 3), "uint8")


def cached(split):
    """As `mini-imagenet-cache-*.pkl`; classes and images out of order."""
    last, first = WNIDS[split][1::-1]
    return {
        "image_data": images_of(split),
        "class_dict": {last: [3, 0], first: np.array([1, 2])},
    }


def category(split, named=True):
    """As `miniImageNet_category_split_*.pickle`."""
    names = {"catname2label": dict(zip(WNIDS[split], (7, 12)))}
    labels = [12, 7, np.int64(7), 12]
    stored = {"data": list(images_of(split)), "labels": labels}
    return {**stored, **names} if named else stored


CATEGORY = {
    "train": "miniImageNet_category_split_train_phase_train.pickle",
    "val": "miniImageNet_category_split_val.pickle",
    "test": "miniImageNet_category_split_test.pickle",
}
CACHED = {split: f"mini-imagenet-cache-{split}.pkl" for split in WNIDS}


def write_pickles(folder, names, make, protocol=4):
    for split, name in names.items():
        content = pickle.dumps(make(split), protocol)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "names, make, order",
    [(CACHED, cached, [1, 2, 3, 0]), (CATEGORY, category, [1, 2, 0, 3])],
)
def test_pickles(tmp_path, load, names, make, order, protocol):
    write_pickles(tmp_path, names, make, protocol)
    splits = load(tmp_path)
    for split, classes in zip(WNIDS, splits):
        assert classes.names == WNIDS[split][:2]
        assert classes.counts.tolist() == [2, 2]
        np.testing.assert_array_equal(classes.x, images_of(split)[order])
    with pytest.raises(ValueError, match="have been resized"):
        load(tmp_path, resize="bicubic")


def test_labels_without_names(tmp_path, load):
    write_pickles(tmp_path, CATEGORY, lambda split: category(split, False))
    splits = load(tmp_path)
    assert splits.train.names == ["train/0007", "train/0012"]
    assert splits.test.names == ["test/0007", "test/0012"]
    with pytest.raises(ValueError, match="64 classes of train.*with 2 classes"):
        load(tmp_path, classes="paper")


@pytest.mark.parametrize(
    "change, text",
    [
        ({"image_data": images_of("val")[:, :80]}, r"\(4, 80, 84, 3\)"),
        ({"image_data": images_of("val") / 255}, "float64"),
        ({"image_data": [np.zeros((2, 2))]}, r"shape \(2, 2\)"),
        ({"image_data": [*images_of("val", 3), 1]}, "a int for an array"),
        ({"image_data": [[[0, 1]]]}, "a list for an array"),
        ({"image_data": []}, "with none"),
        ({"class_dict": {"a": [0, 1, 2]}}, "4 images in one class"),
        ({"class_dict": {"a": [0, 1], "b": [1, 2, 3]}}, "have 5 indices"),
        ({"class_dict": {"a": [0, 1], "b": [2, 4]}}, "from 0 to 4"),
        ({"class_dict": {"a": [0, 1], "b": [2, -1]}}, "from -1 to 2"),
        ({"class_dict": {"a": [0, 1, 2, 3], "b": []}}, "at least one.*'b'"),
        ({"class_dict": {"a": 5}}, "whose class_dict.'a'. is neither"),
        ({"class_dict": {}}, "0 classes"),
        ({"class_dict": None}, "with the keys"),
        ({"class_dict": None, "labels": [1, 2]}, "a label for each.*2 lab"),
        ({"class_dict": None, "labels": [[1], [2]]}, "labels is neither"),
        ({"class_dict": None, "labels": [1.5] * 4}, "a label for each.*float"),
    ],
)
def test_pickles_whose_parts_do_not_fit_are_refused(
    tmp_path, load, change, text
):
    write_pickles(tmp_path, CACHED, cached)
    content = pickle.dumps({**cached("val"), **change})
    path = tmp_path / CACHED["val"]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=text) as error:
        load(tmp_path)
    assert str(path) in str(error.value)


def test_indices_of_several_dtypes(tmp_path, load):
    def mixed(split):
        last, first = cached(split)["class_dict"]
        indices = {last: np.array([3, 0], "uint64"), first: [1, 2]}
        return {**cached(split), "class_dict": indices}

    write_pickles(tmp_path, CACHED, mixed)
    np.testing.assert_array_equal(
        load(tmp_path).train.x, images_of("train")[[1, 2, 3, 0]]
    )


IMAGE, NUMBERS = np.zeros((EXTENT, EXTENT, 3), "uint8"), [0, 1, 2, 3]
LISTS = [NUMBERS] * 4


@pytest.mark.parametrize(
    "change, text",
    [
        ({"image_data": [IMAGE] * 4}, "with the same one several times"),
        ({"image_data": [[LISTS] * 84] * 84}, "a list for an array"),
        ({"class_dict": {"a": LISTS}}, "'a'.* is neither, of type list"),
        ({"class_dict": {i: NUMBERS for i in range(99)}}, "2 classes have 8"),
        ({"class_dict": 0, "labels": LISTS}, "labels is neither"),
        ({"class_dict": 0, "labels": ["a" * 1001] * 4}, "at most 1000 letters"),
        ({"class_dict": 0, "labels": ["a"] * 999}, "4 images and 999 labels"),
        ({"class_dict": {"a" * 9999: 0}}, "is neither"),
        ({"class_dict": {"a" * 9999: []}}, "at least one"),
        ({"class_dict": 0, "a" * 9999: 0}, "with the keys"),
    ],
)
def test_what_pickles_share_is_not_multiplied(tmp_path, load, change, text):
    write_pickles(tmp_path, CACHED, lambda s: {**cached(s), **change})
    with pytest.raises(ValueError, match=text) as error:
        load(tmp_path)
    assert len(str(error.value)) < 800


def test_labels_are_counted_before_they_are_copied(tmp_path, load):
    labels = {"class_dict": 0, "labels": ["a" * 1000] * 3000}
    write_pickles(tmp_path, CACHED, lambda s: {**cached(s), **labels})
    tracemalloc.start()
    with pytest.raises(ValueError, match="4 images and 3000 labels"):
        load(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4e6  # For 12 MB.


def test_names_of_labels_that_are_no_numbers(tmp_path, load):
    names = {WNIDS["train"][0]: LISTS, WNIDS["train"][1]: "b"}
    write_pickles(
        tmp_path, CATEGORY, lambda s: {**category(s), "catname2label": names}
    )
    assert load(tmp_path).train.names == ["train/0007", "train/0012"]


def test_pickles_that_share_a_class_are_refused(tmp_path, load):
    write_pickles(tmp_path, CACHED, lambda split: cached("train"))
    with pytest.raises(ValueError, match="one split"):
        load(tmp_path)


def test_a_folder_is_chosen_where_it_is_whole(tree, load):
    write_pickles(tree, CACHED, cached)
    assert load(tree).train.counts.tolist() == [3, 3]
    os.rename(tree / "val", tree / "validation")
    assert load(tree).train.counts.tolist() == [2, 2]

"""Images that are kept decoded: when they are used, and dropped."""

import os
import pwd

import numpy as np
import pytest
import tensorflow as tf
from mini_imagenet_tree import one, picture, write_tree

import keras_reptile as kr
from keras_reptile.data import image_files


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

"""Folders of image files, decoded and resized side by side."""

import concurrent.futures
import hashlib
import pathlib
import stat

import numpy as np
import tensorflow as tf
from absl import logging

from keras_reptile.data import cache, orientation, resizing

SUFFIXES = (".jpeg", ".jpg", ".png")
# Of files that are kept decoded: by which rules, since there are several.
_RULES = {".png": "transparency on white"}
# Many times those of a photograph; a small file can stand for more.
MOST_PIXELS = 50_000_000
_SHOWN = 10


def list_classes(folder) -> tuple:
    """The image files of a folder of class folders.

    Hidden files, folders within a class and files of other kinds are left
    out. A link that leads nowhere is not: it is what is missing.

    Args:
        folder: One split, `<folder>/<class>/*.JPEG`.

    Returns:
        `(files, problems)`: lists of paths by the class' name, both sorted,
        so that they are in the same order on every machine; and a reason by
        path for each folder that cannot be read.
    """
    problems = {}

    def listed(path, wanted):
        try:
            return sorted(
                inner
                for inner in path.iterdir()
                if not inner.name.startswith(".") and wanted(inner)
            )
        except OSError as error:
            problems[path] = error.strerror or type(error).__name__
            return []

    folders = listed(pathlib.Path(folder), _is_folder)
    return {path.name: listed(path, _is_image) for path in folders}, problems


def _is_folder(path):
    return path.is_dir() or (path.is_symlink() and not path.exists())


def _is_image(path):
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def decode(path, resize: str, extent: int, turn: bool = False):
    """Reads one file as RGB, in whatever colours it is stored.

    What is transparent is laid on white, as where it is looked at: a drawing
    may have all of its lines in the transparency, and one colour.

    Args:
        path: A JPEG or PNG file; its suffix may say either of both.
        resize: A key of `resizing.RESIZES`.
        extent: Of the square it is resized to.
        turn: Whether photographs are set upright, as the camera noted.

    Returns:
        `(image, None)`, uint8 of shape `(extent, extent, 3)`, or
        `(None, reason)` if there is none.
    """
    content, problem = _content(pathlib.Path(path))
    if problem:
        return None, problem
    encoded = tf.constant(content)  # Once, as it takes longer than a header.
    try:
        height, width = _extents(content, encoded)
        if height * width > MOST_PIXELS:
            return None, f"{width} by {height}, above {MOST_PIXELS:,} pixels"
        image = _pixels(content, encoded)
    except tf.errors.InvalidArgumentError as error:
        logging.debug("%s: %s", path, error)
        return None, "truncated or damaged"
    if turn:
        image = orientation.upright(image, content)
    return resizing.RESIZES[resize](image, extent), None


def _pixels(content, encoded):
    if _is_transparent(content):
        image = tf.io.decode_png(encoded, channels=4).numpy().astype(int)
        colours, alpha = image[..., :3], image[..., 3:]
        on_white = colours * alpha + 255 * (255 - alpha)
        return ((on_white + 127) // 255).astype(np.uint8)
    # The accurate transform is the one that PIL takes.
    return tf.io.decode_jpeg(
        encoded,
        channels=3,
        dct_method="INTEGER_ACCURATE",
        try_recover_truncated=False,
    ).numpy()


def _is_transparent(content):
    """By its kind of colours, or a chunk that comes before its pixels.

    (Elsewhere TensorFlow's fourth channel is no opacity: 1 of 1 bit.)
    """
    if not content.startswith(b"\x89PNG"):
        return False
    kind, before_pixels = content[25:26], content.partition(b"IDAT")[0]
    return kind in (b"\4", b"\6") or b"tRNS" in before_pixels


def _content(path):
    """What is in a file, as bytes, or why there is no image in it."""
    try:
        # To open a pipe is to wait for the one who writes to it.
        if not stat.S_ISREG(path.stat().st_mode):
            return None, "no file but a pipe, a device or a folder"
        content = path.read_bytes()
    except OSError as error:
        return None, error.strerror or type(error).__name__
    if not content:
        return None, "empty"
    if not content.startswith((b"\xff\xd8", b"\x89PNG")):
        return None, "no JPEG or PNG"
    return content, None


def _extents(content, encoded):
    """Height and width by the header, before there is memory for them."""
    if content.startswith(b"\x89PNG"):
        return [int.from_bytes(content[i : i + 4], "big") for i in (20, 16)]
    return tf.io.extract_jpeg_shape(encoded).numpy().tolist()[:2]


def decode_all(paths: list, resize: str, extent: int, turn: bool = False):
    """Decodes files side by side, in threads.

    Args:
        paths: Of the files.
        resize: A key of `resizing.RESIZES`.
        extent: Of the squares.
        turn: As of `decode`.

    Returns:
        `(images, problems)`: uint8 of shape `(n, extent, extent, 3)`, and
        a reason by path for each file that is not an image, whose place
        among the images holds nothing of use.
    """
    images = np.empty((len(paths), extent, extent, 3), np.uint8)
    problems = {}

    def place(index):
        image, problem = decode(paths[index], resize, extent, turn)
        if problem:
            problems[paths[index]] = problem
        else:
            images[index] = image

    with concurrent.futures.ThreadPoolExecutor() as threads:
        for _ in threads.map(place, range(len(paths))):
            pass  # Raises what a thread has raised.
    return images, {path: problems[path] for path in paths if path in problems}


def decode_once(
    folder,
    paths,
    resize: str,
    extent: int,
    name: str,
    directory,
    turn: bool = False,
):
    """`decode_all`, kept on disk for the next start.

    What is kept is found again as long as the files have the names, sizes
    and times of change that they had. Otherwise it is replaced, once all
    files have been decoded again.

    Args:
        folder: That the files are in.
        paths: Of the files.
        resize: A key of `resizing.RESIZES`.
        extent: Of the squares.
        name: What the file on disk begins with.
        directory: Of the cache, see `cache.load`.
        turn: As of `decode`.
    """
    source = (str(pathlib.Path(folder).resolve()), resize, extent)
    stem = f"{name}-{_short_hash(source)}"
    suffixes = {path.suffix.lower() for path in paths}
    status_of = [_RULES[suffix] for suffix in suffixes & set(_RULES)]
    if turn:
        status_of.append("upright")
    for path in paths:
        try:
            status = path.stat()
        except OSError:  # Decoding tells what is the matter with it.
            return decode_all(paths, resize, extent, turn)
        key = (*path.parts[-2:], status.st_size, status.st_mtime_ns)
        status_of.append(key)
    name = f"{stem}-{_short_hash(status_of)}"
    shapes = {"images": (len(paths), extent, extent, 3)}
    stored = cache.load(name, directory, shapes)
    if stored is not None:
        return stored["images"], {}
    images, problems = decode_all(paths, resize, extent, turn)
    if not problems:
        cache.store(name, {"images": images}, directory, stem)
    return images, problems


def unreadable(problems: dict) -> str:
    """A message that names files, and ends where another remedy may follow.

    Args:
        problems: A reason by path for each.
    """
    lines = [
        f"    {path}: {problem}"
        for path, problem in list(problems.items())[:_SHOWN]
    ]
    if len(problems) > _SHOWN:
        lines.append(f"    and {len(problems) - _SHOWN} more")
    return (
        "Expected whole JPEG or PNG files, in folders that may be listed. "
        f"Received: {len(problems)} that cannot be read.\n"
        + "\n".join(lines)
        + "\nGet them again (a download that breaks off leaves such files), "
    )


def _short_hash(value):
    # Names of files may hold bytes that are no UTF-8; `repr` escapes them.
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]

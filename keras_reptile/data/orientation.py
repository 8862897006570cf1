"""Photographs as they were taken: the orientation that a camera notes."""

import struct

import numpy as np

_ORIENTATION = 0x0112
# The types of a value that it may have, a short or a long integer.
_FORMATS = {3: "H", 4: "I"}
_EXIF = b"Exif\0\0"
_APP1, _START_OF_SCAN = 0xE1, 0xDA
# Exif 2.32, 4.6.4 A: whether rows and columns change places, and then by
# which steps they are read. 1 and what is unknown are upright.
_TURNS = {
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}


def upright(image: np.ndarray, content: bytes) -> np.ndarray:
    """Turns an image as the file that it was decoded from says.

    A camera that is held sideways stores the picture sideways, and notes by
    which of eight turns and reflections it is to be shown.

    Args:
        image: Shape `(height, width, channels)`, as stored.
        content: Of the file. Only JPEGs are asked.

    Returns:
        The image, a view; as it is where the file says nothing of it, or
        what cannot be read.
    """
    turn = _TURNS.get(_orientation(content))
    if turn is None:
        return image
    sideways, rows, columns = turn
    if sideways:
        image = image.swapaxes(0, 1)
    return image[::rows, ::columns]


def _orientation(content):
    """The number that a JPEG's Exif segment has; `None` without one."""
    place = 2
    while content[place : place + 1] == b"\xff" and len(content) >= place + 4:
        marker = content[place + 1]
        if marker == 0xFF:  # Any number of these may come before a marker.
            place += 1
            continue
        if marker == _START_OF_SCAN:
            return None
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        segment = content[place + 4 : end]
        if marker == _APP1 and segment.startswith(_EXIF):
            return _of_tiff(segment[len(_EXIF) :])
        place = end
    return None


def _of_tiff(tiff):
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for number in range(count):
            entry = directory + 2 + 12 * number
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == _ORIENTATION and kind in _FORMATS:
                form = order + _FORMATS[kind]
                return struct.unpack_from(form, tiff, entry + 8)[0]
    except struct.error:  # It ends before what it points to.
        pass
    return None

"""Pickles written by hand, step by step."""

import struct


def written(tmp_path, content):
    path = tmp_path / "data.pkl"
    path.write_bytes(content)
    return path


TYPE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"


def as_bytes(value):
    return b"B" + struct.pack("<I", len(value)) + value

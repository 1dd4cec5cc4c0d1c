"""Arrays of MATLAB files (level 5, `save -v7` and older), read with every size checked.

The format is a sequence of tagged elements (MAT-File Format, The MathWorks). Foreign bytes never reach a parser
written in C: scipy's ends the process where one of them is wrong.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pnfs.data.images import DataError
from pnfs.errors import PnfsError

LARGEST = 1 << 28  # Bytes of a file or of an unpacked element that are read.

_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_STORED = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"
}  # fmt: skip
"""Type of an element that holds numbers -> how they are stored."""
_CLASSES = {
    6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"
}  # fmt: skip
"""Class of a numeric array -> the type of its numbers."""
_KINDS = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"}
_COMPLEX = 0x0800


def read_arrays(path: Path) -> dict[str, np.ndarray | str]:
    """Name -> array of real numbers, or the kind of a variable that is something else.

    Raises:
        DataError: The file cannot be read, is too large, truncated or no such file.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: has more than {LARGEST:,} bytes; it is not the dataset's own")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if data[:20] == b"MATLAB 7.3 MAT-file " or data[:8] == b"\x89HDF\r\n\x1a\n":
        raise DataError(
            f"{path}: is a MATLAB 7.3 file; save it again in MATLAB with the option -v7"
        )
    try:
        return dict(_variables(data))
    except (ValueError, struct.error, zlib.error, MemoryError) as error:
        raise DataError(
            f"{path}: is truncated or not a MATLAB file ({error}); download or unpack it again"
        ) from None


def _variables(data: bytes) -> Iterator[tuple[str, np.ndarray | str]]:
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise PnfsError("it has no header of a MATLAB file")
    for kind, content in _elements(memoryview(data)[128:], order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(content, LARGEST)
            if not unpacker.eof:
                raise PnfsError("a compressed variable is cut off, or too large")
            (kind, content), *_ = _elements(memoryview(unpacked), order)
        if kind != _MATRIX:
            raise PnfsError(f"there is an element of type {kind} in place of a variable")
        yield _variable(list(_elements(content, order)), order)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(type, content) of the elements that follow each other in `data`."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start, padding = place + 8, 0 if kind == _COMPRESSED else -size % 8
        if kind >> 16:  # Up to four bytes lie in the tag itself.
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            padding = 4 - size
            if padding < 0:
                raise PnfsError("an element's tag states an impossible size")
        if start + size > len(data):
            raise PnfsError("an element is longer than what is left of the file")
        yield kind, data[start : start + size]
        place = start + size + padding


def _variable(parts: list[tuple[int, memoryview]], order: str) -> tuple[str, np.ndarray | str]:
    """Name and content of a matrix, whose first elements are flags, sizes and name."""
    kinds = [kind for kind, _ in parts[:3]]
    if kinds != [_UINT32, _INT32, _INT8] or len(parts[0][1]) != 8:
        raise PnfsError("a variable does not begin with its flags, sizes and name")
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    sizes = np.frombuffer(parts[1][1], f"{order}i4").tolist()
    name = bytes(parts[2][1]).decode("latin-1")
    if flags & 0xFF not in _CLASSES or flags & _COMPLEX:
        return name, _KINDS.get(flags & 0xFF, "other")
    if len(parts) < 4 or parts[3][0] not in _STORED or min(sizes, default=-1) < 0:
        raise PnfsError(f"variable {name!r} has no numbers, or a negative size")
    numbers = np.frombuffer(parts[3][1], order + _STORED[parts[3][0]])
    if math.prod(sizes) != len(numbers):
        raise PnfsError(f"variable {name!r} holds {len(numbers)} numbers for sizes {sizes}")
    return name, numbers.reshape(sizes, order="F").astype(_CLASSES[flags & 0xFF])

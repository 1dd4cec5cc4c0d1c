"""Reading annotation files: every failure is one DataError that names file and record and says what to do."""

import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from pnfs.data.images import DataError
from pnfs.errors import PnfsError


def located(path: Path) -> str:
    """Where a relative path was looked for, for messages; "" for an absolute one.

    A checkpoint keeps its dataset's root as it was given, and may be used from another folder.
    """
    if path.is_absolute():
        return ""
    return (
        f" (looked for in {path.absolute()}: relative to the working directory {Path.cwd()}; "
        "run there, or give an absolute path)"
    )


def read_json(path: Path, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """The content of a JSON file, `object_hook` as in `json.load`; raises DataError if it cannot be had."""
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_hook=object_hook)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: is truncated or not a JSON file ({error}); download or unpack it again"
        ) from None


def vector(*shape: int, number: Any = FiniteFloat) -> Any:
    """The kind of a list of numbers, finite unless `number` is `float`, or of lists of them, of one shape."""
    kind = number
    for size in reversed(shape):
        kind = Annotated[list[kind], Field(min_length=size, max_length=size)]
    return kind


class Records:
    """The objects of a JSON list, read column by column; `what` messages call the list.

    Raises DataError if it is no list of objects, and where a record is wrong: names the first one by `label` of
    row and object.
    """

    def __init__(
        self,
        path: Path | str,
        records: object,
        what: str = "the file",
        label: Callable[[int, dict[str, Any]], str] = lambda row, _: f"record {row}",
    ) -> None:
        if not isinstance(records, list):
            raise DataError(f"{path}: {what} must be a list, not {type(records).__name__}")
        for row, record in enumerate(records):
            if not isinstance(record, Mapping):
                raise DataError(f"{path}: {what}: record {row} is not an object but {record!r:.60}")
        self.path, self.all, self.label = path, records, label

    def __len__(self) -> int:
        return len(self.all)

    def column(self, field: str, kind: Any, missing: Any = None) -> list[Any]:
        """What `field` holds in every record, checked by pydantic to be of a kind.

        `missing` stands for a field that is absent, null or an empty list.
        """
        values = [record.get(field) for record in self.all]
        if missing is not None:
            values = [missing if value in (None, []) else value for value in values]
        try:
            return TypeAdapter(list[kind]).validate_python(values)  # type: ignore[valid-type]
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            row, place = int(first["loc"][0]), "".join(f"[{n}]" for n in first["loc"][1:])
            wrong = f"{field}{place}: {first['msg']}, found {first['input']!r:.60}"
            raise DataError(f"{self.path}: {self.label(row, self.all[row])}: {wrong}") from None

    def numbers(
        self, field: str, *shape: int, missing: Any = None, finite: bool = True
    ) -> Float[np.ndarray, "N ..."]:
        """The numbers of one shape, none for a single one, that `field` holds in every record: (N, *shape)."""
        kind = vector(*shape, number=FiniteFloat if finite else float)
        values = self.column(field, kind, missing)
        return np.array(values, dtype=np.float64).reshape(len(values), *shape)

    def require(self, ok: np.ndarray | np.bool_, wrong: str) -> None:
        """Checks one condition on all records."""
        require_rows(self.path, np.asarray(ok), lambda row: self.label(row, self.all[row]), wrong)


def require_rows(path: Path | str, ok: Bool[np.ndarray, " N"], label: Callable[[int], str], wrong: str) -> None:
    """Raises DataError if `ok` is False somewhere: the first such row is `wrong`."""
    if not ok.all():
        more = f" (and {(~ok).sum() - 1} more)" if (~ok).sum() > 1 else ""
        raise DataError(f"{path}: {label(int(np.argmin(ok)))}: {wrong}{more}")


def finite_rows(values: Float[np.ndarray, "N ..."]) -> Bool[np.ndarray, " N"]:
    """Whether all numbers of a row are finite."""
    return np.asarray(np.isfinite(values).all(axis=tuple(range(1, values.ndim))))


# --- arrays of MATLAB files (level 5, `save -v7` and older), read with every size checked
#
# The format is a sequence of tagged elements (MAT-File Format, The MathWorks). Foreign bytes never reach a parser
# written in C: scipy's ends the process where one of them is wrong.

LARGEST = 1 << 28  # Bytes of a file or of an unpacked element that are read.

_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_STORED = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"
}  # fmt: skip
"""Type of an element that holds numbers -> how they are stored."""
_CLASSES = dict(enumerate(("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"), 6))
"""Class of a numeric array -> the type of its numbers."""
_COMPLEX = 0x0800


def read_mat(path: Path, variable: str, shape: tuple[int | None, ...]) -> Shaped[np.ndarray, "..."]:
    """One array of a MATLAB file (version 7.2 or older), of a shape (None: any size).

    MATLAB drops last axes of size 1, which are put back. Raises DataError if the file cannot be read or does not
    hold `variable` as an array of real numbers of this shape.
    """
    arrays = read_arrays(path)
    if variable not in arrays:
        raise DataError(
            f"{path}: holds no array {variable!r} of real numbers; it holds {', '.join(arrays) or 'none'}"
        )
    array = arrays[variable]
    array = array.reshape(*array.shape, *[1] * (len(shape) - array.ndim))
    known = zip(array.shape, shape, strict=False)
    if array.ndim != len(shape) or any(wanted not in (None, size) for size, wanted in known):
        wanted = ", ".join("number of persons" if size is None else str(size) for size in shape)
        raise DataError(f"{path}: {variable} has shape {array.shape}, it must have ({wanted})")
    return array


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Name -> array, of the variables that are arrays of real numbers; raises DataError for any other file."""
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: has more than {LARGEST:,} bytes; it is not the dataset's own")
        data = path.read_bytes()
        if data[:20] == b"MATLAB 7.3 MAT-file " or data[:8] == b"\x89HDF\r\n\x1a\n":
            raise DataError(f"{path}: is a MATLAB 7.3 file; save it again with the option -v7")
        return dict(_variables(data))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except DataError:
        raise
    except (ValueError, struct.error, zlib.error, MemoryError) as error:
        raise DataError(
            f"{path}: is truncated or not a MATLAB file ({error}); download or unpack it again"
        ) from None


def _variables(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
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
        yield from _variable(list(_elements(content, order)), order)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(type, content) of the elements that follow each other in `data`."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start, padding = place + 8, 0 if kind == _COMPRESSED else -size % 8
        if kind >> 16:  # Up to four bytes lie in the tag itself.
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            padding = 4 - size
        if padding < 0 or start + size > len(data):
            raise PnfsError("an element is longer than the room for it")
        yield kind, data[start : start + size]
        place = start + size + padding


def _variable(parts: list[tuple[int, memoryview]], order: str) -> Iterator[tuple[str, np.ndarray]]:
    """Name and content of a matrix of real numbers; its first elements are flags, sizes and name."""
    kinds = [kind for kind, _ in parts[:3]]
    if kinds != [_UINT32, _INT32, _INT8] or len(parts[0][1]) != 8:
        raise PnfsError("a variable does not begin with its flags, sizes and name")
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    sizes = np.frombuffer(parts[1][1], f"{order}i4").tolist()
    name = bytes(parts[2][1]).decode("latin-1")
    if flags & 0xFF in _CLASSES and not flags & _COMPLEX:
        if len(parts) < 4 or parts[3][0] not in _STORED or min(sizes, default=-1) < 0:
            raise PnfsError(f"variable {name!r} has no numbers, or a negative size")
        numbers = np.frombuffer(parts[3][1], order + _STORED[parts[3][0]])
        if math.prod(sizes) != len(numbers):
            raise PnfsError(f"variable {name!r} holds {len(numbers)} numbers for sizes {sizes}")
        yield name, numbers.reshape(sizes, order="F").astype(_CLASSES[flags & 0xFF])

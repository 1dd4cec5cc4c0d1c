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

LARGEST_JSON = 1 << 30  # Bytes of a file that is read; COCO's training annotations have a quarter of this.


def located(path: Path) -> str:
    """Where a relative path was looked for, for messages; "" for an absolute one."""
    if path.is_absolute():
        return ""
    return f" (relative to the working directory {Path.cwd()}; run there, or give an absolute path)"


def read_json(path: Path, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """The content of a JSON file, `object_hook` as in `json.load`; raises DataError if it cannot be had."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise OSError(f"it has more than {LARGEST_JSON:,} bytes")
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_hook=object_hook)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is truncated or not a JSON file ({error}); unpack it again") from None


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
        """What `field` holds in every record, checked by pydantic to be of a kind; `missing` stands for what is
        absent, null or an empty list."""
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
        kind: Any = FiniteFloat if finite else float
        for size in reversed(shape):
            kind = Annotated[list[kind], Field(min_length=size, max_length=size)]
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

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
# Class of a numeric array, and type of an element that holds numbers -> how they are stored.
_CLASSES, _STORED = (
    dict(enumerate(_NUMBERS, 6)),
    dict(zip([9, 7, 1, 2, 3, 4, 5, 6, 12, 13], _NUMBERS, strict=True)),
)
_COMPLEX = 0x0800


def read_mat(path: Path, variable: str, shape: tuple[int | None, ...]) -> Shaped[np.ndarray, "..."]:
    """One array of a MATLAB file (version 7.2 or older), of a shape (None: any size).

    MATLAB drops last axes of size 1, which are put back. Raises DataError if the file cannot be read or does not
    hold `variable` as an array of real numbers of this shape.
    """
    arrays = read_arrays(path)
    array = arrays.get(variable, np.zeros(0))
    array = array.reshape(*array.shape, *[1] * (len(shape) - array.ndim))
    fits = [wanted in (None, size) for size, wanted in zip(array.shape, shape, strict=False)]
    if variable not in arrays or array.ndim != len(shape) or not all(fits):
        wanted = ", ".join("number of persons" if size is None else str(size) for size in shape)
        there = ", ".join(f"{name} {each.shape}" for name, each in arrays.items()) or "no array"
        raise DataError(f"{path}: {variable} must be real numbers of shape ({wanted}); it holds {there}")
    return array


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Name -> array, of the variables that are arrays of real numbers; raises DataError for any other file."""
    try:
        if path.stat().st_size > LARGEST:
            raise PnfsError(f"has more than {LARGEST:,} bytes")
        data = path.read_bytes()
        order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
        if order is None or data.startswith(b"MATLAB 7.3"):
            raise PnfsError("no MATLAB file of version 7.2 or older: save it again with -v7")
        return dict(_variables(memoryview(data)[128:], order))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, struct.error, zlib.error, MemoryError) as error:
        raise DataError(f"{path}: is truncated or not readable ({error}); download or unpack it again") from None


def _variables(data: memoryview, order: str) -> Iterator[tuple[str, np.ndarray]]:
    """Name and content of the matrices of real numbers."""
    room = LARGEST  # Bytes that all variables together may still take.
    for kind, content in _elements(data, order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(content, room)
            if not unpacker.eof or (room := room - len(unpacked)) <= 0:
                raise PnfsError("a compressed variable is cut off, or too large")
            (kind, content), *_ = _elements(memoryview(unpacked), order)
        # A matrix begins with its flags (unsigned), sizes (int32) and name (int8).
        parts = list(_elements(content, order)) if kind == _MATRIX else []
        if [kind for kind, _ in parts[:3]] != [6, 5, 1] or len(parts[0][1]) != 8:
            raise PnfsError(f"there is an element of type {kind} in place of a variable")
        (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
        if flags & 0xFF not in _CLASSES or flags & _COMPLEX:
            continue
        sizes = np.frombuffer(parts[1][1], f"{order}i4").tolist()
        name = bytes(parts[2][1]).decode("latin-1")
        stored = _STORED.get(parts[3][0]) if len(parts) > 3 else None
        numbers = np.frombuffer(parts[3][1], order + stored) if stored else np.zeros(0)
        if stored is None or min(sizes, default=-1) < 0 or math.prod(sizes) != len(numbers):
            raise PnfsError(f"variable {name!r} holds {len(numbers)} numbers for sizes {sizes}")
        yield name, numbers.reshape(sizes, order="F").astype(_CLASSES[flags & 0xFF])


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

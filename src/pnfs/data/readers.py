"""Reading annotation files: every failure is one DataError that names file and record and says what to do."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from pnfs.data.images import DataError
from pnfs.data.matfile import read_arrays


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
    """The content of a JSON file; `object_hook` as in `json.load`.

    Raises:
        DataError: The file cannot be read, or is truncated or otherwise not JSON in UTF-8.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_hook=object_hook)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: is truncated or not a JSON file ({error}); download or unpack it again"
        ) from None


def read_mat(path: Path, variable: str, shape: tuple[int | None, ...]) -> Shaped[np.ndarray, "..."]:
    """One array of a MATLAB file (version 7.2 or older), of a shape (None: any size).

    MATLAB drops last axes of size 1, which are put back.

    Raises:
        DataError: The file cannot be read, is truncated or not a MATLAB file, or does not hold
            `variable` as an array of real numbers of this shape.
    """
    arrays = read_arrays(path)
    array = arrays.get(variable)
    if not isinstance(array, np.ndarray):
        there = (f"{name} ({getattr(value, 'shape', value)})" for name, value in arrays.items())
        raise DataError(
            f"{path}: holds no array {variable!r} of real numbers; it holds {', '.join(there) or 'nothing'}"
        )
    array = array.reshape(*array.shape, *[1] * (len(shape) - array.ndim))
    known = zip(array.shape, shape, strict=False)
    if array.ndim != len(shape) or any(wanted not in (None, size) for size, wanted in known):
        wanted = ", ".join("number of persons" if size is None else str(size) for size in shape)
        raise DataError(f"{path}: {variable} has shape {array.shape}, it must have ({wanted})")
    return array


class Records:
    """The objects of a JSON list, read column by column.

    Args:
        path: The file, for messages.
        records: Its content, or a part of it.
        what: What messages call `records`.
        label: Row and object -> how messages name it, such as "record 3 (015601864.jpg)".

    Raises:
        DataError: It is no list of objects. So do the methods where a record is wrong; they name the first one.
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

    def texts(self, field: str) -> list[str]:
        """The text that `field` holds in every record."""
        for row, record in enumerate(self.all):
            if not isinstance(record.get(field), str) or not record[field]:
                raise self.wrong(row, f"{field} must be text, not {record.get(field)}")
        return [record[field] for record in self.all]

    def numbers(
        self, field: str, *shape: int, missing: Any = None, finite: bool = False
    ) -> Float[np.ndarray, "N ..."]:
        """The numbers of one shape, none for a single one, that `field` holds in every record: (N, *shape).

        `missing` stands for a field that is absent, null or an empty list.
        """
        records = self.all
        if missing is not None:
            records = [{field: missing} if r.get(field) in (None, []) else r for r in records]
        try:
            column = np.array([record[field] for record in records], dtype=np.float64)
        except _NO_NUMBERS:
            column = np.empty(())
        if column.shape != (len(records), *shape):
            # Which record is wrong, only a search can say.
            column = np.zeros((len(records), *shape))
            for row, record in enumerate(records):
                column[row] = self._numbers_of(row, record, field, shape)
        if finite:
            self.require(finite_rows(column), f"{field} is not a finite number")
        return column

    def _numbers_of(
        self, row: int, record: Mapping[str, Any], field: str, shape: tuple[int, ...]
    ) -> np.ndarray:
        if field not in record:
            raise self.wrong(row, f"{field} is missing")
        try:
            found = np.array(record[field], dtype=np.float64)
        except _NO_NUMBERS:
            raise self.wrong(row, f"{field} is not an array of numbers of shape {shape}") from None
        if found.shape != shape:
            raise self.wrong(row, f"{field} has shape {found.shape}, it must have {shape}")
        return found

    def require(self, ok: np.ndarray | np.bool, wrong: str) -> None:
        """Checks one condition on all records."""
        require_rows(self.path, np.asarray(ok), lambda row: self.label(row, self.all[row]), wrong)

    def wrong(self, row: int, wrong: str) -> DataError:
        """The error that names a record."""
        return DataError(f"{self.path}: {self.label(row, self.all[row])}: {wrong}")


_NO_NUMBERS = (KeyError, TypeError, ValueError, OverflowError)  # What NumPy raises.


def require_rows(
    path: Path | str, ok: Bool[np.ndarray, " N"], label: Callable[[int], str], wrong: str
) -> None:
    """Raises DataError if `ok` is False somewhere: the first such row is `wrong`."""
    if not ok.all():
        more = f" (and {(~ok).sum() - 1} more)" if (~ok).sum() > 1 else ""
        raise DataError(f"{path}: {label(int(np.argmin(ok)))}: {wrong}{more}")


def finite_rows(values: Float[np.ndarray, "N ..."]) -> Bool[np.ndarray, " N"]:
    """Whether all numbers of a row are finite."""
    return np.asarray(np.isfinite(values).all(axis=tuple(range(1, values.ndim))))


def first_of_each(values: np.ndarray | Sequence[str]) -> Bool[np.ndarray, " N"]:
    """False where a value has occurred before."""
    return np.isin(np.arange(len(values)), np.unique(values, return_index=True)[1])

"""Reading annotation files: every failure is one DataError that names file and record and says what to do."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from pnfs.data.images import DataError
from pnfs.data.matfile import read_arrays

RecordLabel = Callable[[int], str]
"""Row of a column -> how messages name the record, such as "record 3 (015601864.jpg)"."""


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
    """The content of a JSON file.

    Args:
        path: The file.
        object_hook: Called with every object while the file is read, as in `json.load`.

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


def read_mat(
    path: Path, variable: str, shape: tuple[int | None, ...] | None = None
) -> Shaped[np.ndarray, "..."]:
    """One array of a MATLAB file (version 7.2 or older).

    Args:
        path: The file.
        variable: Name of the array.
        shape: The array's shape, None for any size; MATLAB drops last axes of size 1, which are put back.

    Raises:
        DataError: The file cannot be read, is truncated or not a MATLAB file, or does not hold
            `variable` as an array of real numbers of this shape.
    """
    arrays = read_arrays(path)
    array = arrays.get(variable)
    if not isinstance(array, np.ndarray):
        there = ", ".join(
            f"{name} ({value if isinstance(value, str) else value.shape})"
            for name, value in arrays.items()
        )
        raise DataError(
            f"{path}: holds no array {variable!r} of real numbers; it holds {there or 'nothing'}"
        )
    if shape is None:
        return array
    array = array.reshape(*array.shape, *[1] * (len(shape) - array.ndim))
    if array.ndim != len(shape) or not all(
        wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
    ):
        wanted = ", ".join("number of persons" if size is None else str(size) for size in shape)
        raise DataError(f"{path}: {variable} has shape {array.shape}, it must have ({wanted})")
    return array


def require_records(path: Path | str, records: object, what: str) -> list[dict[str, Any]]:
    """`records`, if it is a list of JSON objects.

    Raises:
        DataError: It is something else.
    """
    if not isinstance(records, list):
        raise DataError(f"{path}: {what} must be a list, not {type(records).__name__}")
    for row, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise DataError(f"{path}: {what}: record {row} is not an object but {record!r:.60}")
    return records


def text_column(
    path: Path, records: Sequence[Mapping[str, Any]], field: str, label: RecordLabel
) -> list[str]:
    """The text that `field` holds in every record.

    Raises:
        DataError: A record lacks it or holds something else; the message names the record.
    """
    for row, record in enumerate(records):
        if not isinstance(record.get(field), str) or not record[field]:
            raise DataError(f"{path}: {label(row)}: {field} must be text, not {record.get(field)}")
    return [record[field] for record in records]


def number_column(
    path: Path | str,
    records: Sequence[Mapping[str, Any]],
    field: str,
    shape: tuple[int, ...],
    label: RecordLabel,
) -> Float[np.ndarray, "N ..."]:
    """The numbers that `field` holds in every record, one below the other.

    Args:
        path: The file, for messages.
        records: N records.
        field: A key of each record.
        shape: The shape of one record's value; () for a single number.
        label: How messages name a record.

    Returns:
        float64 (N, *shape).

    Raises:
        DataError: A record lacks the field, or holds another number of values or something that
            is not a number; the message names the first such record.
    """
    if not records:
        return np.zeros((0, *shape))
    try:
        column = np.array([record[field] for record in records], dtype=np.float64)
        if column.shape[1:] == shape:
            return column
    except (KeyError, TypeError, ValueError, OverflowError):
        pass  # Only the record by record search below can say which one is wrong.
    for row, record in enumerate(records):
        if field not in record:
            raise DataError(f"{path}: {label(row)}: {field} is missing")
        try:
            found = np.array(record[field], dtype=np.float64).shape
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{path}: {label(row)}: {field} is not an array of numbers of shape {shape}"
            ) from None
        if found != shape:
            raise DataError(
                f"{path}: {label(row)}: {field} has shape {found}, it must have {shape}"
            )
    raise DataError(f"{path}: {field} does not have shape {shape} in every record")


def finite_rows(values: Float[np.ndarray, "N ..."]) -> Bool[np.ndarray, " N"]:
    """Whether all numbers of a row are finite."""
    return np.asarray(np.isfinite(values).all(axis=tuple(range(1, values.ndim))))


def first_of_each(values: np.ndarray | Sequence[str]) -> Bool[np.ndarray, " N"]:
    """False where a value has occurred before."""
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def require_rows(
    path: Path | str, ok: Bool[np.ndarray, " N"], label: RecordLabel, wrong: str
) -> None:
    """Checks one condition on all records.

    Raises:
        DataError: `ok` is False somewhere; the message names the first such record and says that
            it is `wrong`.
    """
    if not ok.all():
        first = int(np.flatnonzero(~ok)[0])
        others = int((~ok).sum()) - 1
        tail = f" (and {others} more)" if others else ""
        raise DataError(f"{path}: {label(first)}: {wrong}{tail}")

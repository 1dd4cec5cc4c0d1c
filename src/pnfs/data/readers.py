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


def require_records(path: Path | str, records: object, what: str) -> list[dict[str, Any]]:
    """`records`, if it is a list of JSON objects; raises DataError if not."""
    if not isinstance(records, list):
        raise DataError(f"{path}: {what} must be a list, not {type(records).__name__}")
    for row, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise DataError(f"{path}: {what}: record {row} is not an object but {record!r:.60}")
    return records


def text_column(
    path: Path, records: Sequence[Mapping[str, Any]], field: str, label: RecordLabel
) -> list[str]:
    """The text that `field` holds in every record; raises DataError naming the first that has none."""
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
    """The numbers, of one shape (() for a single one), that `field` holds in every record: float64 (N, *shape).

    Raises:
        DataError: A record lacks the field, or holds another number of values or something that
            is not a number; the message names the first such record.
    """
    if not records:
        return np.zeros((0, *shape))
    wrong = (KeyError, TypeError, ValueError, OverflowError)
    try:
        column = np.array([record[field] for record in records], dtype=np.float64)
        if column.shape[1:] == shape:
            return column
    except wrong:
        pass  # Which record is wrong, only the search below can say.
    rows = []
    for row, record in enumerate(records):
        try:
            rows.append(np.array(record[field], dtype=np.float64))
            problem = f"has shape {rows[-1].shape}, it must have {shape}"
            if rows[-1].shape == shape:
                continue
        except wrong:
            problem = f"is not an array of numbers of shape {shape}"
        if field not in record:
            problem = "is missing"
        raise DataError(f"{path}: {label(row)}: {field} {problem}")
    return np.stack(rows)


def finite_rows(values: Float[np.ndarray, "N ..."]) -> Bool[np.ndarray, " N"]:
    """Whether all numbers of a row are finite."""
    return np.asarray(np.isfinite(values).all(axis=tuple(range(1, values.ndim))))


def first_of_each(values: np.ndarray | Sequence[str]) -> Bool[np.ndarray, " N"]:
    """False where a value has occurred before."""
    return np.isin(np.arange(len(values)), np.unique(values, return_index=True)[1])


def require_rows(
    path: Path | str, ok: Bool[np.ndarray, " N"], label: RecordLabel, wrong: str
) -> None:
    """Raises DataError if `ok` is False somewhere: the first such record is `wrong`."""
    if not ok.all():
        more = f" (and {(~ok).sum() - 1} more)" if (~ok).sum() > 1 else ""
        raise DataError(f"{path}: {label(int(np.argmin(ok)))}: {wrong}{more}")

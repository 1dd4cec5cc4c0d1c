"""What the dataset loaders share: reading annotation files and refusing what cannot be used.

Every failure is one DataError that names the file and the record and says what to do.
"""

import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from jaxtyping import Bool, Float, Shaped

from pnfs.data.persons import DataError, ImageFiles

RecordLabel = Callable[[int], str]
"""Row of a column -> how messages name the record, such as "record 3 (015601864.jpg)"."""


def require_padding(padding: float) -> float:
    """`padding`, if it is a usable factor.

    Raises:
        DataError: It is not a positive finite number.
    """
    if not (math.isfinite(padding) and padding > 0):
        raise DataError(f"padding must be a positive factor of the person box, not {padding}")
    return float(padding)


def require_split(dataset: str, split: str, splits: Sequence[str]) -> None:
    """Checks the name of a split.

    Raises:
        DataError: `split` is not one of `splits`.
    """
    if split not in splits:
        raise DataError(f"{dataset} has no split {split!r}; there are {', '.join(splits)}")


def require_files(dataset: str, root: Path, relative: Sequence[str], guide: str) -> None:
    """Checks that a dataset lies where it is expected, without reading anything.

    Args:
        dataset: The dataset's name, for the message.
        root: The dataset's folder.
        relative: Files and folders that must exist below `root`.
        guide: The expected layout and where the dataset is obtained.

    Raises:
        DataError: Something is not there.
    """
    if not root.is_dir():
        raise DataError(f"{dataset}: there is no folder {root}{located(root)}.\n{guide}")
    missing = [str(root / name) for name in relative if not (root / name).exists()]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(f"{dataset}: {', '.join(missing)} {verb} missing{located(root)}.\n{guide}")


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


def require_images(name: str, images: ImageFiles, guide: str) -> None:
    """Checks that all image files exist, with one folder listing instead of one stat per file.

    Args:
        name: Dataset and split, for the message.
        images: The images that a split refers to.
        guide: The expected layout and where the dataset is obtained.

    Raises:
        DataError: Images are missing; the message counts them and names the first three.
    """
    wanted = np.unique(images.paths).tolist()
    listings: dict[str, set[str]] = {}
    missing = []
    for path in wanted:
        folder, _, file_name = path.rpartition("/")
        if folder not in listings:
            listings[folder] = list_files(images.root / folder)
        if file_name not in listings[folder]:
            missing.append(path)
    if missing:
        examples = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise DataError(
            f"{name}: {len(missing)} of {len(wanted)} images are missing from {images.root}"
            f"{located(images.root)}: {examples}. Complete the folder; with check_images=False the "
            f"run starts anyway and stops at the first image that it cannot read.\n{guide}"
        )


def list_files(folder: Path) -> set[str]:
    """Names in `folder`; none if it does not exist."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}


def read_json(path: Path, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """The content of a JSON file.

    Args:
        path: The file.
        object_hook: Called with every object while the file is read, as in `json.load`.

    Raises:
        DataError: The file cannot be read, or is truncated or otherwise not JSON.
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


MOST_ROWS = 1 << 20
"""Rows that an array of a MATLAB file may have."""


def read_mat(
    path: Path, variable: str, shape: tuple[int, ...] | None = None
) -> Shaped[np.ndarray, "..."]:
    """One array of a MATLAB file (version 7.2 or older).

    Args:
        path: The file.
        variable: Name of the array.
        shape: Shape of one row of the array, which then has up to MOST_ROWS, checked before anything is
            unpacked; None allows any.

    Raises:
        DataError: The file cannot be read, is truncated or not a MATLAB file, or does not hold
            `variable` as an array of real numbers of this shape.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    array = None
    try:
        there = {name: (size, kind) for name, size, kind in scipy.io.whosmat(io.BytesIO(data))}
        size, kind = there.get(variable, ((), "absent"))
        fits = shape is None or (size[1:] == shape and 0 < size[0] <= MOST_ROWS)
        if fits and kind not in ("absent", "struct", "cell"):
            array = scipy.io.loadmat(io.BytesIO(data), variable_names=[variable])[variable]
    except NotImplementedError:
        raise DataError(
            f"{path}: is a MATLAB 7.3 file; save it again in MATLAB with the option -v7"
        ) from None
    # scipy's parser meets a damaged file with whatever its byte arithmetic runs into.
    except Exception as error:
        raise DataError(
            f"{path}: is truncated or not a MATLAB file ({type(error).__name__}: {error}); "
            "download or unpack it again"
        ) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        wanted = "" if shape is None else f" of shape (persons, {', '.join(map(str, shape))})"
        listed = ", ".join(f"{name} ({kind}, {size})" for name, (size, kind) in there.items())
        raise DataError(
            f"{path}: holds no array {variable!r} of real numbers{wanted}; it holds "
            f"{listed or 'nothing'}"
        )
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
        if column.shape == (len(records), *shape):
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

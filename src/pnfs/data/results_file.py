"""COCO's results file: reading, writing for the benchmark's server, and a check before it is sent."""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pnfs.body import COCO
from pnfs.data.coco_categories import PERSON
from pnfs.data.coco_format import Annotations
from pnfs.data.persons import DataError
from pnfs.data.readers import number_column, require_rows

_NAME = re.compile(
    r"person_keypoints_(val2017|test2017|test-dev2017)_[A-Za-z0-9._-]+_results\.json"
)
_METHOD = re.compile(r"[A-Za-z0-9._-]+")


class _Result(BaseModel):
    """One detection as the server reads it: x, y and v of each joint."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    image_id: int
    category_id: Literal[1]
    keypoints: Annotated[list[float], Field(min_length=3 * len(COCO), max_length=3 * len(COCO))]
    score: float


def results_name(test_set: str, method: str) -> str:
    """`person_keypoints_<test set>_<method>_results.json`, the name that the server asks for.

    Args:
        test_set: "val2017" or "test-dev2017".
        method: Letters, digits, dots, dashes and underscores.

    Raises:
        ValueError: The method's name holds anything else.
    """
    if not _METHOD.fullmatch(method):
        raise ValueError(
            f"the method's name {method!r} goes into the results file's name: letters, digits, "
            "dots, dashes and underscores only"
        )
    return f"person_keypoints_{test_set}_{method}_results.json"


def write_results(path: Path, detections: Sequence[Mapping[str, Any]]) -> Path:
    """Writes detections as the server reads them, coordinates to a hundredth of a pixel."""
    records = [
        {
            "image_id": int(detection["image_id"]),
            # 1 on the server; files of one's own may number categories in another way.
            "category_id": int(detection.get("category_id", PERSON)),
            "keypoints": [round(float(number), 2) for number in detection["keypoints"]],
            "score": round(float(detection["score"]), 6),
        }
        for detection in detections
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(records, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8"
    )
    return path


def read_results(
    path: Path, records: list[dict[str, Any]], truth: Annotations, fields: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Columns of the N persons in a list of detections; other categories are left out.

    Args:
        path: The file, for messages.
        records: Its content.
        truth: Annotations that say which category is person, and which images there are.
        fields: Further fields of each record -> how many numbers they hold.

    Returns:
        "image_id" (N,), "score" (N,), and the `fields`, (N, numbers).

    Raises:
        DataError: There is no person, or a record lacks a field, holds no finite number there, or
            names an unknown image; the message names file, record and field.
    """
    rows = list(range(len(records)))

    def label(row: int) -> str:
        return f"detection {rows[row]}"

    categories = number_column(path, records, "category_id", (), label)
    rows = np.flatnonzero(categories == truth.category).tolist()
    if not rows:
        others = ", ".join(f"{number:g}" for number in np.unique(categories)[:5])
        raise DataError(
            f"{path}: no detection has category_id {truth.category}, which is person in {truth.where}; "
            f"there are {others or 'no detections'}"
        )
    persons = [records[row] for row in rows]
    columns = {}
    shapes: dict[str, tuple[int, ...]] = {"image_id": (), "score": ()}
    for name, shape in (shapes | {name: (size,) for name, size in fields.items()}).items():
        columns[name] = number_column(path, persons, name, shape, label)
        finite = np.isfinite(columns[name].reshape(len(persons), -1)).all(1)
        require_rows(path, finite, label, f"{name} is not a finite number")
    known = np.isin(columns["image_id"], [image["id"] for image in truth.images])
    require_rows(path, known, label, f"image_id is not among the images of {truth.where}")
    return columns | {"image_id": columns["image_id"].astype(np.int64)}


def check_results(path: Path | str, image_ids: Collection[int] | None = None) -> list[str]:
    """What is wrong with a results file; nothing if the server can score it.

    Args:
        path: The file, under the name that it will be sent with.
        image_ids: Images of the test set; None does not check which images are meant.

    Returns:
        One sentence for each kind of fault, with the first record concerned.
    """
    path = Path(path)
    faults = []
    if not _NAME.fullmatch(path.name):
        faults.append(
            f"the name {path.name} is not person_keypoints_<val2017|test-dev2017>_<method>"
            "_results.json"
        )
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return [*faults, f"cannot be read as JSON: {error}"]
    if not isinstance(records, list):
        return [*faults, f"holds {type(records).__name__} instead of a list of detections"]
    if not records:
        return [*faults, "holds no detection"]
    known = None if image_ids is None else set(image_ids)
    return faults + _faulty_records(records, known)


def _faulty_records(records: list[Any], image_ids: Collection[int] | None) -> list[str]:
    first: dict[str, tuple[int, str]] = {}
    counts: Counter[str] = Counter()
    sound = []
    for number, record in enumerate(records):
        faults = {}
        try:
            sound.append((number, _Result.model_validate(record)))
            if image_ids is not None and record["image_id"] not in image_ids:
                faults["image_id"] = "is not an image of the test set"
        except ValidationError as error:
            for fault in error.errors(include_url=False, include_context=False):
                faults[".".join(map(str, fault["loc"][:1]))] = fault["msg"]
        counts.update(faults.keys())
        for key, what in faults.items():
            first.setdefault(key, (number, what))
    found = [
        _counted(counts[key], number, f"{key}: {what}" if key else what)
        for key, (number, what) in first.items()
    ]
    return found + _repetitions(sound)


def _repetitions(results: list[tuple[int, _Result]]) -> list[str]:
    seen, repeated = set(), []
    for number, result in results:
        key = (result.image_id, *result.keypoints)
        if key in seen:
            repeated.append(number)
        seen.add(key)
    what = "repeats an earlier detection of the same image"
    return [_counted(len(repeated), repeated[0], what)] if repeated else []


def _counted(count: int, first: int, what: str) -> str:
    others = f" (and {count - 1} more)" if count > 1 else ""
    return f"detection {first}{others}: {what}"

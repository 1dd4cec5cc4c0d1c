"""COCO's results file: a list of detections, read, and written for the benchmark's server."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from pnfs.data.coco_format import Annotations
from pnfs.data.images import DataError
from pnfs.data.readers import RecordLabel, finite_rows, number_column, require_rows
from pnfs.errors import PnfsError

_METHOD = re.compile(r"[A-Za-z0-9._-]+")


def results_name(test_set: str, method: str) -> str:
    """`person_keypoints_<test set>_<method>_results.json`, the name that the server asks for.

    Args:
        test_set: "val2017" or "test-dev2017".
        method: Letters, digits, dots, dashes and underscores.

    Raises:
        PnfsError: The method's name holds anything else.
    """
    if not _METHOD.fullmatch(method):
        raise PnfsError(
            f"the method's name {method!r} goes into the results file's name: letters, digits, "
            "dots, dashes and underscores only"
        )
    return f"person_keypoints_{test_set}_{method}_results.json"


def write_results(
    path: Path,
    image_ids: Int64[np.ndarray, " N"],
    category: int,
    keypoints: Float[np.ndarray, "N 3K"],
    scores: Float[np.ndarray, " N"],
) -> Path:
    """Writes detections as the server reads them, coordinates to a hundredth of a pixel.

    Args:
        path: The file to write.
        image_ids: Image of each detection.
        category: Id of the category: 1 on the server, another one in files that number them otherwise.
        keypoints: x, y and score of each joint in the annotation file's order: a list names no joints.
        scores: Score of each detection.
    """
    rows = zip(image_ids.tolist(), keypoints.tolist(), scores.tolist(), strict=True)
    records = [
        {
            "image_id": image_id,
            "category_id": category,
            "keypoints": [round(number, 2) for number in numbers],
            "score": round(score, 6),
        }
        for image_id, numbers, score in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(records, separators=(",", ":"), allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def read_results(
    path: Path, records: list[dict[str, Any]], truth: Annotations, fields: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Columns of the N persons in a list of detections; other categories are left out.

    Args:
        path: The file, for messages.
        records: Its content.
        truth: Annotations that say which categories are persons, and which images there are.
        fields: Further fields of each record -> how many numbers they hold.

    Returns:
        "image_id" (N,), "score" (N,), and the `fields`, (N, numbers).

    Raises:
        DataError: There is no person, or a record lacks a field, holds no finite number there, or
            names an unknown image; the message names file, record and field.
    """
    categories = number_column(path, records, "category_id", (), lambda row: f"detection {row}")
    rows = np.flatnonzero(np.isin(categories, truth.categories)).tolist()
    if not rows:
        others = ", ".join(f"{number:g}" for number in np.unique(categories)[:5])
        raise DataError(
            f"{path}: no detection has category_id {truth.category}, which is person in {truth.where}; "
            f"there are {others or 'no detections'}"
        )
    label: RecordLabel = lambda row: f"detection {rows[row]}"  # noqa: E731
    persons = [records[row] for row in rows]
    columns = {}
    shapes = {"image_id": (), "score": ()} | {name: (size,) for name, size in fields.items()}
    for name, shape in shapes.items():
        columns[name] = number_column(path, persons, name, shape, label)
        require_rows(path, finite_rows(columns[name]), label, f"{name} is not a finite number")
    known = np.isin(columns["image_id"], [image["id"] for image in truth.images])
    require_rows(path, known, label, f"image_id is not among the images of {truth.where}")
    return columns | {"image_id": columns["image_id"].astype(np.int64)}

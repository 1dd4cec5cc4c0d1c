"""COCO's results file: what the benchmark's server takes, and a check before it is sent there."""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pnfs.body import COCO
from pnfs.data.coco_categories import PERSON

_NAME = re.compile(
    r"person_keypoints_(val2017|test2017|test-dev2017)_[A-Za-z0-9._-]+_results\.json"
)
_METHOD = re.compile(r"[A-Za-z0-9._-]+")
_KEYS = {"image_id", "category_id", "keypoints", "score"}
_NUMBERS = 3 * len(COCO)

Record = Mapping[str, Any]


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


def write_results(path: Path, detections: Sequence[Record]) -> Path:
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
    return faults + _faulty_records(records, image_ids)


def _faulty_records(records: list[Any], image_ids: Collection[int] | None) -> list[str]:
    rows = [(n, r) for n, r in enumerate(records) if isinstance(r, dict) and r.keys() >= _KEYS]
    faults = []
    if len(rows) < len(records):
        first = min(set(range(len(records))) - {n for n, _ in rows})
        what = f"lacks one of {', '.join(sorted(_KEYS))}"
        faults.append(_counted(len(records) - len(rows), first, what))
    known = None if image_ids is None else set(image_ids)
    checks: list[tuple[str, Callable[[Record], bool]]] = [
        ("image_id is not a whole number", lambda r: _whole(r["image_id"])),
        (
            "image_id is not an image of the test set",
            lambda r: known is None or not _whole(r["image_id"]) or r["image_id"] in known,
        ),
        (f"category_id is not {PERSON} (person)", lambda r: _is_person(r["category_id"])),
        (
            f"keypoints is not a list of {_NUMBERS} numbers (x, y, v of {len(COCO)} joints)",
            lambda r: _complete(r["keypoints"]),
        ),
        ("keypoints holds something that is not a finite number", _points),
        ("score is not a finite number", lambda r: _finite(r["score"])),
    ]
    for what, is_sound in checks:
        wrong = [n for n, record in rows if not is_sound(record)]
        if wrong:
            faults.append(_counted(len(wrong), wrong[0], what))
    return faults + _repetitions(rows)


def _repetitions(rows: list[tuple[int, dict[str, Any]]]) -> list[str]:
    seen, repeated = set(), []
    for n, record in rows:
        key = json.dumps([record["image_id"], record["keypoints"]])
        if key in seen:
            repeated.append(n)
        seen.add(key)
    what = "repeats an earlier detection of the same image"
    return [_counted(len(repeated), repeated[0], what)] if repeated else []


def _counted(count: int, first: int, what: str) -> str:
    others = f" (and {count - 1} more)" if count > 1 else ""
    return f"detection {first}{others}: {what}"


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_person(value: Any) -> bool:
    return _whole(value) and value == PERSON


def _complete(keypoints: Any) -> bool:
    return isinstance(keypoints, list) and len(keypoints) == _NUMBERS


def _points(record: Record) -> bool:
    keypoints = record["keypoints"]
    return not _complete(keypoints) or all(map(_finite, keypoints))

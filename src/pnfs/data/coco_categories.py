"""The category "person" and its joints in COCO-format files, found by name."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pnfs.body import COCO, Skeleton
from pnfs.data.persons import DataError
from pnfs.data.readers import require_records

PERSON = 1
"""COCO's own id of the category "person", for files that name no categories."""


def person_category(where: Path | str, categories: object) -> int:
    """Id of the category named "person", in any case; `PERSON` where no categories are listed.

    Raises:
        DataError: There is no such category, more than one, or its id is not a whole number.
    """
    if not categories:
        return PERSON
    category = _person(where, categories)
    if not isinstance(category.get("id"), int) or isinstance(category["id"], bool):
        raise DataError(f"{where}: categories: id of person is {category.get('id')!r}, no number")
    return category["id"]


def joint_order(where: Path | str, categories: object, skeleton: Skeleton) -> list[int] | None:
    """For every joint of `skeleton` its place in the file's keypoints; None if none are named.

    Names are compared without regard to case, and with spaces and dashes as underscores.

    Raises:
        DataError: The file's joints are others; the message names those that differ.
    """
    stated = _person(where, categories).get("keypoints") if categories else None
    if not stated:
        return None
    if not isinstance(stated, list) or not all(isinstance(name, str) for name in stated):
        raise DataError(f"{where}: categories: keypoints of person is not a list of names")
    names = [_normal(name) for name in stated]
    difference = _difference(names, skeleton)
    if difference:
        raise DataError(
            f"{where}: the joints of category person are not those of skeleton {skeleton.name}: "
            f"{difference}; use a dataset with these {len(skeleton)} joints"
        )
    return [names.index(joint) for joint in skeleton.joints]


def _person(where: Path | str, categories: object) -> dict[str, Any]:
    records = require_records(where, categories, "categories")
    named = [record for record in records if _normal(str(record.get("name"))) == "person"]
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(str(record.get("id")) for record in named)
        raise DataError(f"{where}: several categories are named person (ids {ids}); keep one")
    others = []
    for record in records:
        joints = record.get("keypoints") or []
        difference = _difference([_normal(str(name)) for name in joints], COCO)
        reason = f" (joints: {difference})" if joints and difference else ""
        others.append(f"{record.get('name')}{reason}")
    raise DataError(
        f"{where}: no category is named person; there are {', '.join(others[:5])}. If one holds "
        "persons, name it so under categories"
    )


def _normal(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _difference(names: Sequence[str], skeleton: Skeleton) -> str:
    """How joint names differ from the skeleton's; "" for the same ones in any order."""
    unknown = [name for name in names if name not in skeleton.joints]
    missing = [joint for joint in skeleton.joints if joint not in names]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    parts = (("unknown ", unknown), ("missing ", missing), ("repeated ", repeated))
    return "; ".join(what + ", ".join(which) for what, which in parts if which)

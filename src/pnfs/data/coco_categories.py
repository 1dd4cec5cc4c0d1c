"""The categories of COCO-format files and their joints, found by name."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pnfs import body
from pnfs.body import Skeleton
from pnfs.data.images import DataError
from pnfs.data.readers import require_records

PERSON = 1
"""COCO's own id of the category "person", for files that name no categories."""

Wanted = str | Sequence[str] | None
"""Name or names of the categories that are read; None: all that have the skeleton's joints."""


def person_category(where: Path | str, categories: object) -> int:
    """Id of the category named "person", in any case; `PERSON` where no categories are listed.

    Raises:
        DataError: There is no such category, more than one, or its id is not a whole number.
    """
    named = named_categories(where, categories, "person", body.COCO)
    return named[0]["id"] if named else PERSON


def named_categories(
    where: Path | str, categories: object, wanted: Wanted, skeleton: Skeleton
) -> list[dict[str, Any]]:
    """The wanted categories in the file's order; none where the file lists no categories."""
    if not categories:
        return []
    records = require_records(where, categories, "categories")
    if wanted is None:
        chosen = [record for record in records if not _difference(record, skeleton)]
        names = "any with its joints"
    else:
        names = [_normal(name) for name in ([wanted] if isinstance(wanted, str) else wanted)]
        chosen = [record for record in records if _normal(str(record.get("name"))) in names]
        for name in names:
            ids = [str(r.get("id")) for r in chosen if _normal(str(r.get("name"))) == name]
            if len(ids) > 1:
                raise DataError(
                    f"{where}: several categories are named {name} (ids {', '.join(ids)}); keep one"
                )
            if not ids:
                chosen = []
                break
    if not chosen:
        there = [
            f"{r.get('name')}" + (f" (joints: {_difference(r, skeleton)})" if _joints(r) else "")
            for r in records[:5]
        ]
        raise DataError(
            f"{where}: categories: no {' or '.join(names) if wanted else names}; there are "
            f"{', '.join(there)}. Choose another category, or name one so under categories"
        )
    for record in chosen:
        if not isinstance(record.get("id"), int) or isinstance(record["id"], bool):
            raise DataError(
                f"{where}: categories: id of {record.get('name')} is {record.get('id')!r}, no number"
            )
    return chosen


def joint_order(
    where: Path | str, categories: Sequence[Mapping[str, Any]], skeleton: Skeleton
) -> list[int] | None:
    """For every joint of `skeleton` its place in the file's keypoints; None if none are named."""
    orders = []
    for record in categories:
        if not record.get("keypoints"):
            continue
        if difference := _difference(record, skeleton):
            raise DataError(
                f"{where}: categories: the joints of {record.get('name')} are not those of skeleton "
                f"{skeleton.name}: {difference}; use a dataset with these {len(skeleton)} joints"
            )
        names = _joints(record)
        orders.append([names.index(_normal(joint)) for joint in skeleton.joints])
    if any(order != orders[0] for order in orders):
        raise DataError(f"{where}: categories: joints stand in several orders; give them one order")
    return orders[0] if orders else None


def _joints(category: Mapping[str, Any]) -> list[str]:
    names = category.get("keypoints")
    return [_normal(str(name)) for name in names] if isinstance(names, list) else []


def _normal(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _difference(category: Mapping[str, Any], skeleton: Skeleton) -> str:
    """How a category's joints differ from the skeleton's; "" for the same ones in any order."""
    names, joints = _joints(category), [_normal(joint) for joint in skeleton.joints]
    unknown = [name for name in names if name not in joints]
    missing = [joint for joint in joints if joint not in names]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    parts = (("unknown ", unknown), ("missing ", missing), ("repeated ", repeated))
    return "; ".join(what + ", ".join(which) for what, which in parts if which)

"""COCO's annotation format: the one reading that loader, metric, checks and prediction share.

Ids of categories and the order of their joints come from the file's `categories` by name.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from pnfs import body
from pnfs.body import Skeleton
from pnfs.data.coco_categories import PERSON, Wanted, joint_order, named_categories
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED
from pnfs.data.readers import (
    RecordLabel,
    finite_rows,
    first_of_each,
    number_column,
    read_json,
    require_records,
    require_rows,
)
from pnfs.evaluation.coco_eval import GroundTruth

AREA_SHARE = 0.53
"""Share of the box that stands for a missing area, as in mmpose: the mean of COCO's own persons."""

OTHER_CATEGORY = "of another category"
CROWD = "crowds"
NO_JOINTS = "without a labelled joint"
STATED_ZERO = "with num_keypoints 0 beside labelled joints"
EMPTY_BOX = "with a box that is empty inside the image"

AREA_FROM_BOX = f"without an area (or 0), taken as {AREA_SHARE} of the box"
ORDERED_BY_NAME = "with joints put in order by name"
ORDER_ASSUMED = "without joint names, the skeleton's order assumed"
PERSON_ASSUMED = f"without a list of categories, {PERSON} taken as person"


@dataclass(frozen=True)
class Annotations(GroundTruth):
    """The persons of an annotation file, N rows in the file's order, joints in the skeleton's.

    Crowds and persons without a labelled joint are among them: the evaluation ignores predictions
    there. Training and scoring take the rows of `usable`.
    """

    skeleton: Skeleton
    named: Wanted
    """What was asked for as category."""
    categories: tuple[int, ...]
    """Ids of the categories that were read; scored together, under the first one."""
    records: list[dict[str, Any]]
    """The annotations as the file has them."""
    ids: Int64[np.ndarray, " N"]
    left_out: Mapping[str, int]
    """Annotations that are no persons, by reason."""
    remarks: Mapping[str, int]
    """What was filled in or assumed, with the number of usable persons concerned."""
    order: tuple[int, ...]
    """For every joint of the skeleton its place in the file's keypoints."""


def read_annotations(
    source: Mapping[str, Any] | Path | str,
    skeleton: Skeleton = body.COCO,
    *,
    category: Wanted = "person",
    labelled: bool = True,
    where: str = "ground truth",
) -> Annotations:
    """Reads and checks annotations.

    Required: `images` with ids; for persons id, image_id, category_id, bbox and keypoints (which
    crowds and persons with num_keypoints 0 may lack). `iscrowd` is 0 and `num_keypoints` the
    number of labelled joints where absent; an area that is absent or 0 is taken from the box.
    Annotations of other categories are left out and counted.

    Args:
        source: A JSON file, or its content (which stays as it is).
        skeleton: Order of the joints in the result; the file may have another order if its
            category names the joints.
        category: What is a person.
        labelled: False for the list of a test set's images, whose annotations are not read.
        where: What messages call content that is not a file.

    Raises:
        DataError: The file cannot be read, is not in the format, lacks the category, or labels
            other joints; the message names file and record.
    """
    if isinstance(source, Mapping):
        content = source
    else:
        # Outlines are most of the file; without dropping each at once they would fill gigabytes.
        where, content = str(source), read_json(Path(source), object_hook=without_outline)
    needed = ("images", "annotations") if labelled else ("images",)
    missing = [part for part in needed if not isinstance(content, Mapping) or part not in content]
    if missing:
        raise DataError(
            f"{where}: is not a COCO annotation file: it lacks {' and '.join(map(repr, missing))}"
        )
    images = require_records(where, content["images"], "images")
    named = named_categories(where, content.get("categories"), category, skeleton)
    categories = tuple(record["id"] for record in named) or (PERSON,)
    stated = joint_order(where, named, skeleton) if labelled else None
    order = stated or list(range(len(skeleton)))
    found = content["annotations"] if labelled else []
    everything = require_records(where, found, "annotations")
    own = number_column(where, everything, "category_id", (), _label(everything))
    records = [everything[row] for row in np.flatnonzero(np.isin(own, categories)).tolist()]

    label = _label(records)
    ids, image_ids = _ids(where, images, records, label)
    crowd, joint_count = _flags(where, records, label)
    table = _keypoints(where, records, order, crowd | (joint_count == 0), label)
    visibility = table[..., 2]
    joints = np.where(visibility[..., None] > UNLABELLED, table[..., :2], 0)
    boxes = number_column(where, records, "bbox", (4,), label)
    area = number_column(where, [{"area": r.get("area") or 0} for r in records], "area", (), label)
    finite = np.isfinite(boxes).all(-1) & np.isfinite(area)
    require_rows(where, finite, label, "bbox or area is not a finite number")
    from_box = area <= 0
    area = np.where(from_box, AREA_SHARE * np.maximum(boxes[:, 2:], 0).prod(-1), area)
    usable = ~crowd & (joint_count != 0) & (visibility > UNLABELLED).any(-1)
    in_order = order == list(range(len(skeleton)))
    remarks = {
        AREA_FROM_BOX: int((from_box & usable).sum()),
        ORDERED_BY_NAME: 0 if in_order else int(usable.sum()),
        ORDER_ASSUMED: 0 if stated else int(usable.sum()),
        PERSON_ASSUMED: 0 if named else int(usable.sum()),
    }
    return Annotations(
        where=where,
        images=images,
        records=records,
        category=categories[0],
        named=category,
        categories=categories,
        skeleton=skeleton,
        ids=ids,
        image_ids=image_ids,
        joints=joints,
        visibility=visibility,
        boxes=boxes,
        area=area,
        crowd=crowd,
        usable=usable,
        # Counter's plus sign drops what does not occur.
        left_out=dict(+Counter({OTHER_CATEGORY: len(everything) - len(records)})),
        remarks=dict(+Counter(remarks)),
        order=tuple(order),
    )


def without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """The record without `segmentation`."""
    record.pop("segmentation", None)
    return record


def _label(records: Sequence[Mapping[str, Any]]) -> RecordLabel:
    return lambda row: f"annotation {records[row].get('id', f'number {row}')}"


def _ids(
    where: str,
    images: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    label: RecordLabel,
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """Annotation ids, which must be unique, and image ids, which must be among the images'."""
    ids, image_ids = (number_column(where, records, key, (), label) for key in ("id", "image_id"))
    for column in (ids, image_ids):
        whole = np.isfinite(column) & (column == np.round(column)) & (abs(column) < 2**53)
        require_rows(where, whole, label, "id and image_id must be whole numbers")
    require_rows(where, first_of_each(ids), label, "its id occurs before")
    known: set[int] = set()
    for row, image in enumerate(images):
        id_ = image.get("id")
        if not isinstance(id_, int) or abs(id_) >= 2**53 or id_ in known:
            raise DataError(
                f"{where}: image {row}: id must be a whole number of its own, not {id_!r:.40}"
            )
        known.add(id_)
    found = np.array([image_id in known for image_id in image_ids.tolist()], dtype=bool)
    require_rows(where, found, label, "its image_id is not among the annotation file's images")
    return ids.astype(np.int64), image_ids.astype(np.int64)


def _flags(
    where: str, records: Sequence[Mapping[str, Any]], label: RecordLabel
) -> tuple[Bool[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """iscrowd, and num_keypoints as stated, -1 where it is not."""
    filled = [
        {
            "iscrowd": r.get("iscrowd") or 0,
            "num_keypoints": -1 if r.get("num_keypoints") is None else r["num_keypoints"],
        }
        for r in records
    ]
    crowd = number_column(where, filled, "iscrowd", (), label)
    require_rows(where, np.isin(crowd, (0, 1)), label, "iscrowd must be 0 or 1")
    stated = number_column(where, filled, "num_keypoints", (), label)
    whole = (stated == np.floor(stated)) & (stated >= -1) & (stated < 2**31)
    require_rows(where, whole, label, "num_keypoints must be a whole number from 0")
    return crowd == 1, stated.astype(np.int64)


def _keypoints(
    where: str,
    records: Sequence[Mapping[str, Any]],
    order: list[int],
    ignored: Bool[np.ndarray, " N"],
    label: RecordLabel,
) -> Float[np.ndarray, "N K 3"]:
    """x, y, flag of each joint in the skeleton's order."""
    filled = [
        {"keypoints": [0] * (3 * len(order))}
        if may_lack and not record.get("keypoints")
        else record
        for record, may_lack in zip(records, ignored.tolist(), strict=True)
    ]
    table = number_column(where, filled, "keypoints", (3 * len(order),), label)
    table = table.reshape(-1, len(order), 3)[:, order]
    fine = np.isin(table[..., 2], (0, 1, 2)).all(-1) | ignored
    require_rows(where, fine, label, "a visibility flag of keypoints is not 0, 1 or 2")
    labelled = table[..., 2:] > UNLABELLED
    finite = finite_rows(np.where(labelled, table[..., :2].astype(np.float32), 0)) | ignored
    require_rows(where, finite, label, "a labelled joint is not a finite number")
    return table

"""COCO's annotation format: the one reading that loader, metric, doctor and prediction share.

Ids of the category "person" and the order of its joints come from the file's `categories` by name.
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
from pnfs.data.coco_categories import PERSON, joint_order, person_category
from pnfs.data.persons import UNLABELLED, DataError
from pnfs.data.readers import (
    RecordLabel,
    number_column,
    read_json,
    require_records,
    require_rows,
)
from pnfs.evaluation.coco_eval import GroundTruth

AREA_SHARE = 0.53
"""Share of the box that stands for a missing area, as in mmpose: the mean of COCO's own persons."""

OTHER_CATEGORY = "of another category than person"
CROWD = "crowds"
NO_JOINTS = "without a labelled joint"
STATED_ZERO = "with num_keypoints 0 beside labelled joints"
EMPTY_BOX = "with a box that is empty inside the image"

AREA_FROM_BOX = f"without an area (or 0), taken as {AREA_SHARE} of the box"
ORDERED_BY_NAME = "with joints put in order by name"
ORDER_ASSUMED = "without joint names, COCO's order assumed"
PERSON_ASSUMED = f"without a list of categories, {PERSON} taken as person"


@dataclass(frozen=True)
class Annotations(GroundTruth):
    """The persons of an annotation file, N rows in the file's order, joints in the skeleton's.

    Crowds and persons without a labelled joint are among them: the evaluation ignores predictions
    there. Training and scoring take the rows of `usable`.
    """

    records: list[dict[str, Any]]
    """Annotations of persons, none of whose keys is missing: id, image_id, category_id, bbox, area, iscrowd,
    num_keypoints, keypoints in the skeleton's order."""
    skeleton: Skeleton
    ids: Int64[np.ndarray, " N"]
    left_out: Mapping[str, int]
    """Annotations that are no persons, by reason."""
    remarks: Mapping[str, int]
    """What was filled in or assumed, with the number of usable persons concerned."""
    order: tuple[int, ...]
    """For every joint of the skeleton its place in the file's keypoints."""

    def to_file_order(self, detections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Detections with their joints in the file's order in place of the skeleton's.

        A list of results names no joints: other tools take them in the annotation file's order.
        """
        order = np.argsort(self.order)
        return [
            {**d, "keypoints": np.reshape(d["keypoints"], (len(order), 3))[order].ravel().tolist()}
            for d in detections
        ]


def read_annotations(
    source: Mapping[str, Any] | Path | str,
    skeleton: Skeleton = body.COCO,
    *,
    labelled: bool = True,
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
        labelled: False for the list of a test set's images, whose annotations are not read.

    Raises:
        DataError: The file cannot be read, is not in the format, has no category "person", or
            labels other joints; the message names file and record.
    """
    if isinstance(source, Mapping):
        where, content, own = "ground truth", source, False
    else:
        # Outlines are most of the file; without dropping each at once they would fill gigabytes.
        where, own = str(source), True
        content = read_json(Path(source), object_hook=without_outline)
    needed = ("images", "annotations") if labelled else ("images",)
    missing = [part for part in needed if not isinstance(content, Mapping) or part not in content]
    if missing:
        raise DataError(
            f"{where}: is not a COCO annotation file: it lacks {' and '.join(map(repr, missing))}"
        )
    images = require_records(where, content["images"], "images")
    categories = content.get("categories")
    category = person_category(where, categories)
    order = joint_order(where, categories, skeleton) if labelled else None
    found = content["annotations"] if labelled else []
    return _persons(where, images, found, category, order, skeleton, own, content)


def without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """The record without `segmentation`."""
    record.pop("segmentation", None)
    return record


def _persons(
    where: str,
    images: list[dict[str, Any]],
    found: object,
    category: int,
    order: list[int] | None,
    skeleton: Skeleton,
    own: bool,
    content: Mapping[str, Any],
) -> Annotations:
    order_is_stated, order = order is not None, order or list(range(len(skeleton)))
    everything = require_records(where, found, "annotations")

    def label_all(row: int) -> str:
        return f"annotation {everything[row].get('id', f'number {row}')}"

    categories = number_column(where, everything, "category_id", (), label_all)
    records = [r for r, c in zip(everything, categories.tolist(), strict=True) if c == category]
    # The caller's records are not to change; a file's own need no copy.
    records = records if own else [dict(record) for record in records]

    def label(row: int) -> str:
        return f"annotation {records[row].get('id', f'number {row}')}"

    ids, image_ids = _ids(where, images, records, label)
    crowd, stated = _flags(where, records, label)
    joints, visibility = _keypoints(where, records, order, crowd | (stated == 0), label)
    boxes = number_column(where, records, "bbox", (4,), label)
    area = number_column(where, [{"area": r.get("area") or 0} for r in records], "area", (), label)
    finite = np.isfinite(boxes).all(-1) & np.isfinite(area)
    require_rows(where, finite, label, "bbox or area is not a finite number")
    from_box = area <= 0
    area = np.where(from_box, AREA_SHARE * np.maximum(boxes[:, 2:], 0).prod(-1), area)
    count = np.where(stated == 0, 0, (visibility > UNLABELLED).sum(-1))
    usable = ~crowd & (count > 0)
    filled = zip(
        records, ids.tolist(), image_ids.tolist(), crowd.tolist(), count.tolist(), area.tolist(),
        strict=True,
    )  # fmt: skip
    for record, id_, image_id, is_crowd, joint_count, size in filled:
        record |= {
            "id": id_, "image_id": image_id, "category_id": category, "iscrowd": int(is_crowd),
            "num_keypoints": joint_count, "area": size,
        }  # fmt: skip
    remarks = {
        AREA_FROM_BOX: int((from_box & usable).sum()),
        ORDERED_BY_NAME: 0 if order == list(range(len(skeleton))) else int(usable.sum()),
        ORDER_ASSUMED: 0 if order_is_stated else int(usable.sum()),
        PERSON_ASSUMED: 0 if content.get("categories") else int(usable.sum()),
    }
    return Annotations(
        where=where,
        images=images,
        records=records,
        category=category,
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
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    require_rows(where, first, label, "its id occurs before")
    known: set[int] = set()
    for row, image in enumerate(images):
        id_ = image.get("id")
        if not isinstance(id_, int) or id_ in known:
            raise DataError(
                f"{where}: image {row}: id must be a whole number of its own, not {id_!r}"
            )
        known.add(id_)
    found = np.array([image_id in known for image_id in image_ids.tolist()], dtype=bool)
    require_rows(where, found, label, "its image_id is not among the annotation file's images")
    return ids.astype(np.int64), image_ids.astype(np.int64)


def _flags(
    where: str, records: Sequence[Mapping[str, Any]], label: RecordLabel
) -> tuple[Bool[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """iscrowd, and num_keypoints as stated, -1 where it is not."""
    crowd = [record.get("iscrowd") or 0 for record in records]
    fine = np.array([flag in (0, 1) for flag in crowd], dtype=bool)
    require_rows(where, fine, label, "iscrowd must be 0 or 1")
    stated = [-1 if r.get("num_keypoints") is None else r["num_keypoints"] for r in records]
    fine = np.array(
        [isinstance(n, (int, float)) and n == n // 1 and -1 <= n < 2**31 for n in stated],
        dtype=bool,
    )
    require_rows(where, fine, label, "num_keypoints must be a whole number from 0")
    return np.array(crowd, dtype=bool), np.array(stated, dtype=np.int64)


def _keypoints(
    where: str,
    records: Sequence[dict[str, Any]],
    order: list[int],
    ignored: Bool[np.ndarray, " N"],
    label: RecordLabel,
) -> tuple[Float[np.ndarray, "N K 2"], Float[np.ndarray, "N K"]]:
    """Joints and visibility flags in the skeleton's order, in which the records get them too."""
    count = len(order)
    for record, may_lack in zip(records, ignored.tolist(), strict=True):
        if may_lack and not record.get("keypoints"):
            record["keypoints"] = [0] * (3 * count)
    table = number_column(where, records, "keypoints", (3 * count,), label).reshape(-1, count, 3)
    if order != list(range(count)):
        table = table[:, order]
        for record, row in zip(records, table.reshape(-1, 3 * count).tolist(), strict=True):
            record["keypoints"] = row
    joints, visibility = table[..., :2], table[..., 2]
    fine = np.isin(visibility, (0, 1, 2)).all(-1) | ignored
    require_rows(where, fine, label, "a visibility flag of keypoints is not 0, 1 or 2")
    labelled = visibility[..., None] > UNLABELLED
    finite = (np.isfinite(joints) | ~labelled).all((-2, -1)) | ignored
    require_rows(where, finite, label, "a labelled joint is not a finite number")
    return np.where(labelled, joints, 0), visibility

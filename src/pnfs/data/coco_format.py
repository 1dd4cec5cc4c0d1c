"""COCO's annotation format: the one reading that loader, metric, checks and prediction share.

Ids of categories and the order of their joints come from the file's `categories` by name.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from pnfs import body
from pnfs.body import Skeleton
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED
from pnfs.data.readers import Records, finite_rows, first_of_each, read_json
from pnfs.evaluation.coco_eval import GroundTruth

PERSON = 1  # COCO's own id of the category "person", for files that name no categories.

Wanted = str | Sequence[str] | None

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
    named: Wanted  # What was asked for as category.
    categories: tuple[int, ...]
    """Ids of the categories that were read; scored together, under the first one."""
    records: list[dict[str, Any]]  # The annotations as the file has them.
    ids: Int64[np.ndarray, " N"]
    left_out: Mapping[str, int]  # Annotations that are no persons, by reason.
    remarks: Mapping[str, int]
    """What was filled in or assumed, with the number of usable persons concerned."""
    order: tuple[int, ...]  # For every joint of the skeleton its place in the file's keypoints.


def read_annotations(
    source: Mapping[str, Any] | Path | str,
    skeleton: Skeleton = body.COCO,
    *,
    category: Wanted = "person",
    labelled: bool = True,
    where: str = "ground truth",
) -> Annotations:
    """Reads and checks annotations of a JSON file, or of its content, which messages call `where`.

    Required: `images` with ids; for persons id, image_id, category_id, bbox and keypoints (which
    crowds and persons with num_keypoints 0 may lack). `iscrowd` is 0 and `num_keypoints` the
    number of labelled joints where absent; an area that is absent or 0 is taken from the box.

    Joints come in the skeleton's order, whatever the file's, if its category names them. `category`: name or names
    of what is a person; None: all that have the skeleton's joints. Others are left out and counted. A test set's
    list of images is not `labelled`: its annotations are not read.

    Raises:
        DataError: The file cannot be read, is not in the format, lacks the category, or labels
            other joints; the message names file and record.
    """
    content: Any = source
    if not isinstance(source, Mapping):
        # Outlines are most of the file; without dropping each at once they would fill gigabytes.
        where, content = str(source), read_json(Path(source), object_hook=without_outline)
    needed = ("images", "annotations") if labelled else ("images",)
    missing = [part for part in needed if not isinstance(content, Mapping) or part not in content]
    if missing:
        raise DataError(
            f"{where}: is not a COCO annotation file: it lacks {' and '.join(map(repr, missing))}"
        )
    images = Records(where, content["images"], "images").all
    named = named_categories(where, content.get("categories"), category, skeleton)
    categories = tuple(record["id"] for record in named) or (PERSON,)
    stated = _joint_order(where, named, skeleton) if labelled else None
    in_order = list(range(len(skeleton)))
    order = stated or in_order
    everything = Records(where, content["annotations"] if labelled else [], "annotations", _label)
    own = np.isin(everything.numbers("category_id"), categories)
    kept = [everything.all[row] for row in np.flatnonzero(own).tolist()]
    table = Records(where, kept, "annotations", _label)

    ids, image_ids = table.numbers("id"), table.numbers("image_id")
    both = np.stack([ids, image_ids])
    whole = (np.abs(both) < 2**53) & (both == np.round(both))
    table.require(whole.all(0), "id and image_id must be whole numbers")
    table.require(first_of_each(ids), "its id occurs before")
    known = np.isin(image_ids, _image_numbers(where, images))
    table.require(known, "its image_id is not among the annotation file's images")
    crowd = table.numbers("iscrowd", missing=0)
    joint_count = table.numbers("num_keypoints", missing=-1)
    table.require(np.isin(crowd, (0, 1)), "iscrowd must be 0 or 1")
    counts = (joint_count == np.floor(joint_count)) & (joint_count >= -1) & (joint_count < 2**31)
    table.require(counts, "num_keypoints must be a whole number from 0")

    may_lack = (crowd == 1) | (joint_count == 0)
    lacks = np.array([not record.get("keypoints") for record in kept], bool)
    table.require(may_lack | ~lacks, "keypoints is missing")
    zeros = [0] * (3 * len(order))
    joints = table.numbers("keypoints", len(zeros), missing=zeros)
    joints = joints.reshape(-1, len(order), 3)[:, order]
    visibility, has_label = joints[..., 2], joints[..., 2:] > UNLABELLED
    flags = np.isin(visibility, (0, 1, 2)).all(-1) | may_lack
    table.require(flags, "a visibility flag of keypoints is not 0, 1 or 2")
    finite = finite_rows(np.where(has_label, joints[..., :2].astype(np.float32), 0)) | may_lack
    table.require(finite, "a labelled joint is not a finite number")
    boxes = table.numbers("bbox", 4, finite=True)
    area = table.numbers("area", missing=0, finite=True)
    from_box = area <= 0
    usable = (crowd == 0) & (joint_count != 0) & has_label.any((1, 2))
    remarks = {
        AREA_FROM_BOX: int((from_box & usable).sum()),
        ORDERED_BY_NAME: 0 if order == in_order else int(usable.sum()),
        ORDER_ASSUMED: 0 if stated else int(usable.sum()),
        PERSON_ASSUMED: 0 if named else int(usable.sum()),
    }
    return Annotations(
        where=where,
        images=images,
        records=kept,
        category=categories[0],
        named=category,
        categories=categories,
        skeleton=skeleton,
        ids=ids.astype(np.int64),
        image_ids=image_ids.astype(np.int64),
        joints=np.where(has_label, joints[..., :2], 0),
        visibility=visibility,
        boxes=boxes,
        area=np.where(from_box, AREA_SHARE * np.maximum(boxes[:, 2:], 0).prod(-1), area),
        crowd=crowd == 1,
        usable=usable,
        # Counter's plus sign drops what does not occur.
        left_out=dict(+Counter({OTHER_CATEGORY: len(everything) - len(kept)})),
        remarks=dict(+Counter(remarks)),
        order=tuple(order),
    )


def without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """The record without `segmentation`."""
    record.pop("segmentation", None)
    return record


def _label(row: int, record: Mapping[str, Any]) -> str:
    return f"annotation {record.get('id', f'number {row}')}"


def _image_numbers(where: str, images: Sequence[Mapping[str, Any]]) -> list[int]:
    known: dict[int, None] = {}
    for row, image in enumerate(images):
        id_ = image.get("id")
        if not isinstance(id_, int) or abs(id_) >= 2**53 or id_ in known:
            raise DataError(
                f"{where}: image {row}: id must be a whole number of its own, not {id_!r:.40}"
            )
        known[id_] = None
    return list(known)


def named_categories(
    where: Path | str, categories: object, wanted: Wanted, skeleton: Skeleton = body.COCO
) -> list[dict[str, Any]]:
    """The wanted categories in the file's order, names in any case; none where the file lists no categories.

    Raises:
        DataError: A category is not there, or twice, or its id is not a whole number.
    """
    if not categories:
        return []
    records = Records(where, categories, "categories").all
    names = [_normal(name) for name in ([wanted] if isinstance(wanted, str) else wanted or ())]
    own = [_normal(record.get("name")) for record in records]
    chosen = [n for n, r in enumerate(records)
              if (own[n] in names if names else not _difference(r, skeleton))]  # fmt: skip
    found = [own[n] for n in chosen]
    if not chosen or set(names) - set(found) or (names and len(set(found)) < len(found)):
        there = [
            f"{r.get('id')} {r.get('name')}"
            + (f" (joints: {_difference(r, skeleton)})" if _joints(r) else "")
            for r in records[:5]
        ]
        raise DataError(
            f"{where}: categories: there must be one {' and one '.join(names) or 'with its joints'}; there are "
            f"{', '.join(there)}. Choose another category, or name one so under categories"
        )
    for record in (records[n] for n in chosen):
        if type(record.get("id")) is not int:
            raise DataError(
                f"{where}: categories: id of {record.get('name')} is {record.get('id')!r}, no number"
            )
    return [records[n] for n in chosen]


def _joint_order(
    where: str, categories: Sequence[Mapping[str, Any]], skeleton: Skeleton
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
        orders.append([_joints(record).index(_normal(joint)) for joint in skeleton.joints])
    if any(order != orders[0] for order in orders):
        raise DataError(f"{where}: categories: joints stand in several orders; give them one order")
    return orders[0] if orders else None


def _joints(category: Mapping[str, Any]) -> list[str]:
    names = category.get("keypoints")
    return [_normal(name) for name in names] if isinstance(names, list) else []


def _normal(name: object) -> str:
    return str(name).strip().casefold().replace(" ", "_").replace("-", "_")


def _difference(category: Mapping[str, Any], skeleton: Skeleton) -> str:
    """How a category's joints differ from the skeleton's; "" for the same ones in any order."""
    names, joints = _joints(category), [_normal(joint) for joint in skeleton.joints]
    return "; ".join(
        f"{what} {', '.join(which)}"
        for what, which in (
            ("unknown", [name for name in names if name not in joints]),
            ("missing", [joint for joint in joints if joint not in names]),
            ("repeated", [name for name, count in Counter(names).items() if count > 1]),
        )
        if which
    )

"""COCO's annotation and result formats: the one reading that loader, metric, checks and prediction share.

Ids of categories and the order of their joints come from the file's `categories` by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int64
from pydantic import Field

from pnfs import body
from pnfs.body import Skeleton
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED, Persons, counted, first_of_each
from pnfs.data.readers import Records, finite_rows, read_json
from pnfs.evaluation.coco_eval import DetectedPoses, GroundTruth

PERSON = 1  # COCO's own id of the category "person", for files that name no categories.

Wanted = str | Sequence[str] | None
Id = Annotated[int, Field(gt=-(2**53), lt=2**53)]
StrictId = Annotated[Id, Field(strict=True)]

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

    Crowds and persons without a labelled joint are among them: the evaluation ignores predictions there. Training
    and scoring take the rows of `usable`.
    """

    categories: tuple[int, ...]  # Ids that were read; scored together, under the first one.
    ids: Int64[np.ndarray, " N"]
    left_out: Mapping[str, int]  # Annotations that are no persons, by reason.
    remarks: Mapping[str, int]  # What was filled in or assumed, with the number of usable persons.
    order: tuple[int, ...]  # For every joint of the skeleton its place in the file's keypoints.


def read_annotations(
    source: Mapping[str, Any] | Path | str,
    skeleton: Skeleton = body.COCO,
    category: Wanted = "person",
    *,
    labelled: bool = True,
    where: str = "ground truth",
) -> Annotations:
    """Reads and checks annotations of a JSON file, or of its content, which messages call `where`.

    Required: `images` with ids; for persons id, image_id, category_id, bbox and keypoints (which crowds and
    persons with num_keypoints 0 may lack). An area that is absent or 0 is taken from the box. Joints come in the
    skeleton's order if the file's category names them. `category`: name or names of what is a person; None: all
    that have the skeleton's joints. Of a test set's list of images, not `labelled`, annotations are not read.

    Raises DataError, which names file and record, if the file is not in the format, lacks the category, or labels
    other joints.
    """
    content: Any = source
    if not isinstance(source, Mapping):
        # Outlines are most of the file; without dropping each at once they would fill gigabytes.
        where, content = str(source), read_json(Path(source), object_hook=without_outline)
    for part in ("images", "annotations") if labelled else ("images",):
        if not isinstance(content, Mapping) or part not in content:
            raise DataError(f"{where}: is not a COCO annotation file: it lacks {part!r}")
    images = Records(where, content["images"], "images", lambda row, _: f"image {row}")
    numbers = images.column("id", StrictId)
    images.require(first_of_each(numbers), "its id occurs before")
    named = named_categories(where, content.get("categories"), category, skeleton)
    categories = tuple(record["id"] for record in named) or (PERSON,)
    stated = _joint_order(where, named, skeleton) if labelled else None
    order = stated or list(range(len(skeleton)))
    everything = Records(where, content["annotations"] if labelled else [], "annotations", _label)
    own = np.isin(everything.numbers("category_id"), categories)
    kept = [everything.all[row] for row in np.flatnonzero(own).tolist()]
    table = Records(where, kept, "annotations", _label)

    ids, image_ids = (np.array(table.column(key, Id), np.int64) for key in ("id", "image_id"))
    table.require(first_of_each(ids), "its id occurs before")
    table.require(np.isin(image_ids, numbers), "its image_id is not among the annotation file's images")
    crowd = np.array(table.column("iscrowd", Annotated[int, Field(ge=0, le=1)], 0), bool)
    counts = np.array(table.column("num_keypoints", Annotated[int, Field(ge=-1, lt=2**31)], -1), np.int64)
    may_lack = crowd | (counts == 0)
    joints, visibility = _keypoints(table, order, may_lack)
    has_label = visibility[..., None] > UNLABELLED
    boxes, area = table.numbers("bbox", 4), table.numbers("area", missing=0)
    usable = ~crowd & (counts != 0) & has_label.any((1, 2))
    remarks = {
        AREA_FROM_BOX: (area <= 0) & usable,
        ORDERED_BY_NAME: usable & (order != sorted(order)),
        ORDER_ASSUMED: usable & (stated is None),
        PERSON_ASSUMED: usable & (not named),
    }
    return Annotations(
        where=where, images=images.all, category=categories[0], categories=categories,
        ids=ids, image_ids=image_ids, joints=np.where(has_label, joints, 0), visibility=visibility, boxes=boxes,
        area=np.where(area <= 0, AREA_SHARE * np.maximum(boxes[:, 2:], 0).prod(-1), area),
        crowd=crowd, usable=usable, order=tuple(order),
        left_out=counted({OTHER_CATEGORY: ~own}), remarks=counted(remarks),
    )  # fmt: skip


def _keypoints(table: Records, order: Sequence[int], may_lack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints (N, K, 2) in the skeleton's order and visibility (N, K); rows that `may_lack` them go unchecked."""
    lacks = np.array([not record.get("keypoints") for record in table.all], bool)
    table.require(may_lack | ~lacks, "keypoints is missing")
    zeros = [0] * (3 * len(order))
    joints = table.numbers("keypoints", len(zeros), missing=zeros, finite=False)
    joints = joints.reshape(-1, len(order), 3)[:, order]  # (N, 3K) -> (N, K, 3)
    visibility, has_label = joints[..., 2], joints[..., 2:] > UNLABELLED
    flags = np.isin(visibility, (0, 1, 2)).all(-1) | may_lack
    table.require(flags, "a visibility flag of keypoints is not 0, 1 or 2")
    finite = finite_rows(np.where(has_label, joints[..., :2].astype(np.float32), 0)) | may_lack
    table.require(finite, "a labelled joint is not a finite number")
    return joints[..., :2], visibility


@dataclass(frozen=True, kw_only=True)
class PersonsInBoxes(Persons):
    """Persons with the columns that only the benchmark's metric needs."""

    image_ids: Int64[np.ndarray, " N"]  # COCO's image ids.
    box_scores: Float32[np.ndarray, " N"]  # The detector's; 1 for ground-truth boxes.

    def corners(self) -> torch.Tensor:
        """(N, 4) x, y of each box's upper left and lower right corner."""
        half = self.box_size.astype(np.float64) / 2
        return torch.from_numpy(np.hstack([self.center - half, self.center + half]))


def without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """The record without `segmentation`."""
    record.pop("segmentation", None)
    return record


def _label(row: int, record: Mapping[str, Any]) -> str:
    return f"annotation {record.get('id', f'number {row}')}"


def named_categories(
    where: Path | str, categories: object, wanted: Wanted, skeleton: Skeleton = body.COCO
) -> list[dict[str, Any]]:
    """The wanted categories in the file's order, names in any case; none where the file lists no categories.

    Raises DataError if a category is not there, or twice, or an id is not a whole number.
    """
    if not categories:
        return []
    table = Records(where, categories, "categories", lambda _, r: f"categories: {r.get('name')}")
    table.column("id", StrictId)
    names = {_normal(name) for name in ([wanted] if isinstance(wanted, str) else wanted or ())}
    chosen = [
        record for record in table.all
        if (_normal(record.get("name")) in names if names else _has_joints(record, skeleton))
    ]  # fmt: skip
    if not chosen or (names and sorted(names) != sorted(_normal(record.get("name")) for record in chosen)):
        there = ", ".join(f"{r['id']} {r.get('name')} ({', '.join(_joints(r))})" for r in table.all[:5])
        wanted = " and one ".join(names) or f"with the joints {', '.join(skeleton.joints)}"
        raise DataError(
            f"{where}: categories: there must be one {wanted}; there are {there}: choose or rename one"
        )
    return chosen


def _joint_order(where: str, categories: Sequence[Mapping[str, Any]], skeleton: Skeleton) -> list[int] | None:
    """For every joint of `skeleton` its place in the file's keypoints; None if none are named."""
    orders = []
    for record in categories:
        if not record.get("keypoints"):
            continue
        if not _has_joints(record, skeleton):
            names, needed = ", ".join(_joints(record)), ", ".join(skeleton.joints)
            raise DataError(f"{where}: categories: the joints of {record.get('name')} are {names}, not {needed}")
        orders.append([_joints(record).index(_normal(joint)) for joint in skeleton.joints])
    if any(order != orders[0] for order in orders):
        raise DataError(f"{where}: categories: joints stand in several orders; give them one order")
    return orders[0] if orders else None


def _joints(category: Mapping[str, Any]) -> list[str]:
    names = category.get("keypoints")
    return [_normal(name) for name in names] if isinstance(names, list) else []


def _normal(name: object) -> str:
    return str(name).strip().casefold().replace(" ", "_").replace("-", "_")


def _has_joints(category: Mapping[str, Any], skeleton: Skeleton) -> bool:
    """Whether a category's joints are the skeleton's, in any order."""
    return sorted(_joints(category)) == sorted(map(_normal, skeleton.joints))


def image_table(read: Annotations) -> dict[int, tuple[str, tuple[int, int]]]:
    """Id -> file name and (width, height) of the images; raises DataError where one lacks its size or name."""
    images = Records(read.where, read.images, "images", lambda row, r: f"image {r.get('id', row)}")
    kinds = {"id": int, "file_name": str, "width": int, "height": int}
    rows = zip(*(images.column(key, kind) for key, kind in kinds.items()), strict=True)
    return {id_: (name, (width, height)) for id_, name, width, height in rows}


def write_results(path: Path, read: Annotations, poses: DetectedPoses, scores: np.ndarray) -> Path:
    """Writes poses and their joints' scores as COCO's server reads them, to a hundredth of a pixel.

    Category and joint order are those of the annotation file, as other tools expect: a list names neither.
    """
    table = np.dstack([poses.joints, scores.astype(np.float64)])[:, np.argsort(read.order)]
    columns = {
        "image_id": poses.image_ids,
        "category_id": read.category,
        "keypoints": list(table.reshape(len(table), -1).round(2)),
        "score": poses.scores.round(6),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_json(path, orient="records", double_precision=6)
    return path


def read_results(
    path: Path, truth: Annotations, fields: Mapping[str, int]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Columns of the N persons in a file of detections, "image_id" (N,), "score" (N,) and `fields` (N, size), and
    what was left out.

    Raises DataError, which names file, record and field, if a record is no detection in an image of `truth`, or
    none is of its categories.
    """
    everything = Records(path, read_json(path), label=lambda row, _: f"detection {row}")
    categories = everything.numbers("category_id")
    own = np.isin(categories, truth.categories)
    rows = np.flatnonzero(own).tolist()
    if not rows:
        there = ", ".join(f"{number:g}" for number in np.unique(categories)[:5])
        raise DataError(
            f"{path}: no detection has category_id {truth.category}, which is person in {truth.where}; "
            f"there are {there or 'no detections'}"
        )
    persons = [everything.all[row] for row in rows]
    table = Records(path, persons, label=lambda row, _: f"detection {rows[row]}")
    columns = {name: table.numbers(name, size) for name, size in fields.items()}
    columns |= {"image_id": np.array(table.column("image_id", Id)), "score": table.numbers("score")}
    known = np.isin(columns["image_id"], [image["id"] for image in truth.images])
    table.require(known, f"image_id is not among the images of {truth.where}")
    return columns, counted({OTHER_CATEGORY: ~own})

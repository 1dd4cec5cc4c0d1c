"""COCO's persons in their labelled boxes, in a detector's boxes, or in boxes that are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int64

from pnfs.data import coco_format
from pnfs.data.coco_format import Annotations, Id
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.data.readers import Records, located, read_json
from pnfs.evaluation.coco_eval import DetectedPoses

if TYPE_CHECKING:
    from pnfs.data.datasets.coco import COCO

_DETECTIONS_GUIDE = """\
Detected person boxes are linked under "Data preparation" in the README of
github.com/leoxiaobin/deep-high-resolution-net.pytorch; any JSON file in COCO's result format will
do (image_id, category_id, bbox, score). Put it there, or name it with `detections`."""

ImageTable = Mapping[int, tuple[str, tuple[int, int]]]  # Image id -> file name, (width, height).


@dataclass(frozen=True)
class PersonsInBoxes:
    """Persons and the columns that only the benchmark's metric needs, row by row the same."""

    persons: Persons
    image_ids: Int64[np.ndarray, " N"]  # COCO's image ids.
    scores: Float32[np.ndarray, " N"]  # The detector's; 1 for ground-truth boxes.

    def corners(self) -> torch.Tensor:
        """(N, 4) x, y of each box's upper left and lower right corner."""
        half = self.persons.box_size.astype(np.float64) / 2
        return torch.from_numpy(np.hstack([self.persons.center - half, self.persons.center + half]))


def labelled_persons(dataset: "COCO", split: str) -> PersonsInBoxes:
    """The usable persons of a split's annotations, in ground-truth boxes."""
    read = dataset.annotations(split)
    table = image_table(read)
    sizes = np.array([table[i][1] for i in read.image_ids.tolist()]).reshape(-1, 2)
    # Clipped to the image as HRNet does: from the box's first to its last pixel, one less than its width.
    low = np.maximum(read.boxes[:, :2], 0)
    high = np.minimum(sizes - 1, low + np.maximum(read.boxes[:, 2:] - 1, 0))
    fewest = dataset.min_labelled if split == "train" else 1
    labelled = (read.visibility > UNLABELLED).sum(-1)
    keep, left_out = np.ones(len(read.ids), dtype=bool), dict(read.left_out)
    for reason, wrong in (
        (coco_format.CROWD, read.crowd),
        (coco_format.NO_JOINTS, labelled == 0),
        (coco_format.STATED_ZERO, ~read.usable),
        (coco_format.EMPTY_BOX, ~(high - low > 0).all(-1)),
        (f"with fewer than {fewest} labelled joints", labelled < fewest),
    ):
        # Each is counted by the first reason that applies.
        if (keep & wrong).any():
            left_out[reason] = int((keep & wrong).sum())
        keep &= ~wrong
    low, high, image_ids = low[keep], high[keep], read.image_ids[keep]
    persons = _persons(
        dataset,
        split,
        table,
        name=f"{dataset.name} {split}",
        ids=read.ids[keep].astype(np.str_),
        image_ids=image_ids,
        joints=read.joints[keep].astype(np.float32),
        visibility=read.visibility[keep].astype(np.int8),
        center=(low + high) / 2,
        size=high - low,
        reference_length=np.sqrt(read.area[keep]).astype(np.float32),
        left_out=left_out,
        remarks=read.remarks,
        file=read.where,
    )
    return PersonsInBoxes(persons, image_ids, np.ones(len(persons), np.float32))


def detected_persons(dataset: "COCO", split: str, path: Path) -> PersonsInBoxes:
    """The persons that a detector found, as they stand in its results file; ids are "<image id>/<number>"."""
    if not path.is_file():
        raise DataError(f"{dataset.name}: {path} is missing{located(path)}.\n{_DETECTIONS_GUIDE}")
    found, others = read_results(path, read_json(path), dataset.annotations(split), {"bbox": 4})
    empty, low = ~(found["bbox"][:, 2:] > 0).all(-1), found["score"] < dataset.box_threshold
    left_out = {
        coco_format.OTHER_CATEGORY: others,
        "boxes without extent": int(empty.sum()),
        f"boxes that score less than {dataset.box_threshold}": int((low & ~empty).sum()),
    }
    image_ids, boxes, scores = (found[key][~empty & ~low] for key in ("image_id", "bbox", "score"))
    count, joints = len(boxes), len(dataset.skeleton)
    number_in_image = pd.Series(image_ids).groupby(image_ids).cumcount()
    ids = [f"{image}/{n}" for image, n in zip(image_ids.tolist(), number_in_image, strict=True)]
    persons = _persons(
        dataset,
        split,
        image_table(dataset.annotations(split)),
        name=f"{dataset.name} {split}, detected boxes",
        ids=np.array(ids, dtype=np.str_),
        image_ids=image_ids,
        joints=np.zeros((count, joints, 2), np.float32),
        visibility=np.full((count, joints), UNLABELLED, np.int8),
        center=boxes[:, :2] + boxes[:, 2:] / 2,
        size=boxes[:, 2:],
        reference_length=np.full(count, np.nan, np.float32),
        left_out={reason: number for reason, number in left_out.items() if number},
        file=str(path),
    )
    return PersonsInBoxes(persons, image_ids, scores.astype(np.float32))


def _persons(
    dataset: "COCO",
    split: str,
    table: ImageTable,
    image_ids: Int64[np.ndarray, " N"],
    center: np.ndarray,
    size: np.ndarray,
    **columns: Any,
) -> Persons:
    """Persons in images of the annotation file's table; boxes are padded here."""
    used, image_index = np.unique(image_ids, return_inverse=True)
    names = [table[image_id][0] for image_id in used.tolist()]
    return Persons(
        skeleton=dataset.skeleton,
        images=dataset.image_files(split, dataset.files[split]["images"], names),
        image_index=image_index.astype(np.int64),
        center=center.astype(np.float32),
        box_size=(size * dataset.padding).astype(np.float32),
        **columns,
    )


def image_table(read: Annotations) -> ImageTable:
    """The images of an annotation file; raises DataError where one lacks its size or name."""
    images = Records(read.where, read.images, "images", lambda row, r: f"image {r.get('id', row)}")
    kinds = {"id": int, "file_name": str, "width": int, "height": int}
    ids, names, *sizes = (images.column(key, kind) for key, kind in kinds.items())
    sizes = zip(*sizes, strict=True)
    return dict(zip(ids, zip(names, sizes, strict=True), strict=True))


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
    path: Path, content: object, truth: Annotations, fields: Mapping[str, int]
) -> tuple[dict[str, np.ndarray], int]:
    """Columns of the N persons in a list of detections, "image_id" (N,), "score" (N,) and `fields` (N, size), and
    the number of other records.

    Which categories are persons, and which images there are, the annotations `truth` say. Raises DataError, which
    names file, record and field, if there is no person, or a record is not such.
    """
    everything = Records(path, content, label=lambda row, _: f"detection {row}")
    categories = everything.numbers("category_id")
    rows = np.flatnonzero(np.isin(categories, truth.categories)).tolist()
    if not rows:
        others = ", ".join(f"{number:g}" for number in np.unique(categories)[:5])
        raise DataError(
            f"{path}: no detection has category_id {truth.category}, which is person in {truth.where}; "
            f"there are {others or 'no detections'}"
        )
    persons = [everything.all[row] for row in rows]
    table = Records(path, persons, label=lambda row, _: f"detection {rows[row]}")
    columns = {name: table.numbers(name, size) for name, size in fields.items()}
    columns |= {"image_id": np.array(table.column("image_id", Id)), "score": table.numbers("score")}
    known = np.isin(columns["image_id"], [image["id"] for image in truth.images])
    table.require(known, f"image_id is not among the images of {truth.where}")
    return columns, len(everything) - len(rows)

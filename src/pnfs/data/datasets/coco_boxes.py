"""COCO's persons in their labelled boxes, in a detector's boxes, or in boxes that are given."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64

from pnfs.data.coco_format import (
    CROWD,
    EMPTY_BOX,
    NO_JOINTS,
    OTHER_CATEGORY,
    STATED_ZERO,
    Annotations,
)
from pnfs.data.images import DataError, ImageFiles
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.data.readers import located, read_json, require_records
from pnfs.data.results_file import read_results

if TYPE_CHECKING:
    from pnfs.data.datasets.coco import COCO

_DETECTIONS_GUIDE = """\
Detected person boxes are linked under "Data preparation" in the README of
github.com/leoxiaobin/deep-high-resolution-net.pytorch; any JSON file in COCO's result format will
do (image_id, category_id, bbox, score). Put it there, or name it with `detections`."""

ImageTable = Mapping[int, tuple[str, tuple[int, int]]]
"""Image id -> file name, (width, height)."""


@dataclass(frozen=True)
class PersonsInBoxes:
    """Persons and the columns that only the benchmark's metric needs, row by row the same."""

    persons: Persons
    image_ids: Int64[np.ndarray, " N"]
    """COCO's image ids."""
    scores: Float32[np.ndarray, " N"]
    """The detector's; 1 for ground-truth boxes."""

    def corners(self) -> torch.Tensor:
        """(N, 4) x, y of each box's upper left and lower right corner."""
        half = self.persons.box_size.astype(np.float64) / 2
        return torch.from_numpy(np.hstack([self.persons.center - half, self.persons.center + half]))


def labelled_persons(dataset: "COCO", split: str) -> PersonsInBoxes:
    """The usable persons of a split's annotations, in ground-truth boxes."""
    read = dataset.annotations(split)
    table = image_table(read)
    sizes = np.array([table[i][1] for i in read.image_ids.tolist()]).reshape(-1, 2)
    center, size = _clipped(read.boxes, sizes)
    keep, left_out = _usable(read, size, dataset.min_labelled if split == "train" else 1)
    images, image_index = _images(dataset, split, read.image_ids[keep], table)
    persons = Persons(
        name=f"{dataset.name} {split}",
        skeleton=dataset.skeleton,
        images=images,
        ids=read.ids[keep].astype(np.str_),
        image_index=image_index,
        joints=read.joints[keep].astype(np.float32),
        visibility=read.visibility[keep].astype(np.int8),
        center=center[keep].astype(np.float32),
        box_size=(size[keep] * dataset.padding).astype(np.float32),
        reference_length=np.sqrt(read.area[keep]).astype(np.float32),
        left_out=left_out,
        remarks=read.remarks,
        file=read.where,
    )
    return PersonsInBoxes(persons, read.image_ids[keep], np.ones(len(persons), np.float32))


def detected_persons(dataset: "COCO", split: str, path: Path) -> PersonsInBoxes:
    """The persons that a detector found, as they stand in its results file."""
    if not path.is_file():
        raise DataError(f"{dataset.name}: {path} is missing{located(path)}.\n{_DETECTIONS_GUIDE}")
    records = require_records(path, read_json(path), "the file")
    found = read_results(path, records, dataset.annotations(split), {"bbox": 4})
    empty, low = ~(found["bbox"][:, 2:] > 0).all(-1), found["score"] < dataset.box_threshold
    left_out = {
        OTHER_CATEGORY: len(records) - len(found["score"]),
        "boxes without extent": int(empty.sum()),
        f"boxes that score less than {dataset.box_threshold}": int((low & ~empty).sum()),
    }
    image_ids, boxes, scores = (found[key][~empty & ~low] for key in ("image_id", "bbox", "score"))
    name = f"{dataset.name} {split}, detected boxes"
    persons = replace(
        persons_in(dataset, split, image_ids, boxes, name),
        left_out={reason: number for reason, number in left_out.items() if number},
        file=str(path),
    )
    return PersonsInBoxes(persons, image_ids, scores.astype(np.float32))


def persons_in(
    dataset: "COCO",
    split: str,
    image_ids: Int64[np.ndarray, " N"],
    boxes: Float[np.ndarray, "N 4"],
    name: str,
) -> Persons:
    """Unlabelled persons in boxes (x, y, width, height) of a split's images.

    Raises:
        DataError: An image file is missing.
    """
    table = image_table(dataset.annotations(split))
    images, image_index = _images(dataset, split, image_ids, table)
    count, joints = len(boxes), len(dataset.skeleton)
    return Persons(
        name=name,
        skeleton=dataset.skeleton,
        images=images,
        ids=_numbered(image_ids),
        image_index=image_index,
        joints=np.zeros((count, joints, 2), np.float32),
        visibility=np.full((count, joints), UNLABELLED, np.int8),
        center=(boxes[:, :2] + boxes[:, 2:] / 2).astype(np.float32),
        box_size=(boxes[:, 2:] * dataset.padding).astype(np.float32),
        reference_length=np.full(count, np.nan, np.float32),
    )


def image_table(read: Annotations) -> ImageTable:
    """The images of an annotation file.

    Raises:
        DataError: An image lacks its size or name.
    """
    table = {}
    for row, image in enumerate(read.images):
        match image:
            case {"id": int(id_), "width": int(w), "height": int(h), "file_name": str(name)}:
                table[id_] = name, (w, h)
            case _:
                raise DataError(
                    f"{read.where}: image {image.get('id', row)}: needs id, width and height as "
                    "whole numbers and file_name as text"
                )
    return table


def _images(
    dataset: "COCO", split: str, image_ids: Int64[np.ndarray, " N"], table: ImageTable
) -> tuple[ImageFiles, Int64[np.ndarray, " N"]]:
    """The image files that persons are in, and which of them each person is in."""
    used, image_index = np.unique(image_ids, return_inverse=True)
    names = [table[image_id][0] for image_id in used.tolist()]
    images = dataset.image_files(split, dataset.files[split]["images"], names)
    return images, image_index.astype(np.int64)


def _usable(
    read: Annotations, size: Float[np.ndarray, "N 2"], fewest: int
) -> tuple[Bool[np.ndarray, " N"], dict[str, int]]:
    """Which persons stay, and how many do not, by the first reason that applies."""
    labelled = (read.visibility > UNLABELLED).sum(-1)
    keep, counts = np.ones(len(read.ids), dtype=bool), dict(read.left_out)
    for reason, wrong in (
        (CROWD, read.crowd),
        (NO_JOINTS, labelled == 0),
        (STATED_ZERO, ~read.usable),
        (EMPTY_BOX, ~(size > 0).all(-1)),
        (f"with fewer than {fewest} labelled joints", labelled < fewest),
    ):
        if (keep & wrong).any():
            counts[reason] = int((keep & wrong).sum())
        keep &= ~wrong
    return keep, counts


def _numbered(image_ids: Int64[np.ndarray, " N"]) -> np.ndarray:
    """An id for each box: its image and its number among the image's boxes, from 0."""
    order = np.argsort(image_ids, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) - np.searchsorted(image_ids[order], image_ids[order])
    pairs = zip(image_ids.tolist(), number.tolist(), strict=True)
    return np.array([f"{image_id}/{count}" for image_id, count in pairs], dtype=np.str_)


def _clipped(
    boxes: Float[np.ndarray, "N 4"], image_sizes: Float[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]:
    """Centre and (width, height) of boxes (x, y, w, h) clipped to the image, by HRNet's rules.

    HRNet measures a box from its first to its last pixel: one less than its width.
    """
    low = np.maximum(boxes[:, :2], 0)
    high = np.minimum(image_sizes - 1, low + np.maximum(boxes[:, 2:] - 1, 0))
    return (low + high) / 2, high - low

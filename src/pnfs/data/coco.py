"""COCO keypoints 2017 (Lin et al., ECCV 2014): persons in their ground-truth boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from pnfs import body
from pnfs.data.persons import UNLABELLED, DataError, ImageFiles, Persons
from pnfs.data.readers import (
    RecordLabel,
    number_column,
    read_json,
    require_files,
    require_images,
    require_padding,
    require_records,
    require_rows,
    require_split,
)
from pnfs.evaluation.oks import OKSAveragePrecision

_GUIDE = """\
Expected layout below root:
  images/train2017/   images/val2017/   000000000139.jpg, …
  annotations/person_keypoints_train2017.json   annotations/person_keypoints_val2017.json
Images ("2017 Train/Val images") and annotations ("2017 Train/Val annotations"):
https://cocodataset.org/#download
Then set root to that folder."""


@dataclass(frozen=True)
class _Split:
    """Persons and the columns that only the benchmark's metric needs, row by row the same."""

    persons: Persons
    image_ids: Int64[np.ndarray, " N"]
    """COCO's image ids."""


class COCO:
    """COCO keypoints with HRNet's choice of persons and its ground-truth boxes.

    Left out (HRNet, `lib/dataset/coco.py`): crowds, persons without labelled joints, and persons
    whose annotated area or box, once clipped to the image, is empty; from "train" also persons
    with fewer than `min_labelled` labelled joints. Coordinates are taken as they stand.

    The person box has the centre of the clipped box and its (width, height) × `padding`.
    `reference_length` is the square root of the annotated (segment) area in px: the object scale s
    of the benchmark's OKS, so that an error over it compares across persons.

    Args:
        root: Folder with `annotations` and `images`.
        padding: Factor on the sides of the person box.
        min_labelled: Labelled joints that a training person needs.
        check_images: Whether `persons` checks that all image files exist.

    Raises:
        DataError: Folders or annotation files are missing, or `padding` is not positive.
    """

    skeleton = body.COCO
    splits = ("train", "val")

    def __init__(
        self,
        root: Path | str,
        padding: float = 1.25,
        min_labelled: int = 1,
        check_images: bool = True,
    ) -> None:
        self.root = Path(root).expanduser()
        self.padding = require_padding(padding)
        self.min_labelled = min_labelled
        self.check_images = check_images
        self._splits: dict[str, _Split] = {}
        files = ["images", *(str(self._annotations(s).relative_to(self.root)) for s in self.splits)]
        require_files("COCO", self.root, files, _GUIDE)

    def persons(self, split: str) -> Persons:
        """The persons of "train" or "val", in the file's order; ids are COCO's annotation ids.

        Raises:
            DataError: No such split, a damaged annotation file or record, or missing images.
        """
        return self._loaded(split).persons

    def metric(self, split: str) -> OKSAveragePrecision:
        """COCO's keypoint average precision, every box's detection score being 1.

        `sample_index` are rows of `persons(split)`.

        Raises:
            DataError: As `persons`.
            ValueError: The annotation file lacks something that only the evaluation needs.
        """
        loaded = self._loaded(split)
        return OKSAveragePrecision(
            ground_truth=self._annotations(split),
            image_ids=loaded.image_ids,
            areas=loaded.persons.box_size.prod(axis=-1),
            box_scores=np.ones(len(loaded.persons), dtype=np.float32),
        )

    def _annotations(self, split: str) -> Path:
        return self.root / "annotations" / f"person_keypoints_{split}2017.json"

    def _loaded(self, split: str) -> _Split:
        require_split("COCO", split, self.splits)
        if split not in self._splits:
            self._splits[split] = self._load(split)
        return self._splits[split]

    def _load(self, split: str) -> _Split:
        path = self._annotations(split)
        sizes, file_names, annotations = _read_annotations(path)

        def label(row: int) -> str:
            return f"annotation {annotations[row].get('id')}"

        ids, image_ids = _ids(path, annotations, label)
        known = np.array([image_id in file_names for image_id in image_ids.tolist()], dtype=bool)
        require_rows(path, known, label, "its image_id is not among the file's images")
        joints, visibility = _keypoints(path, annotations, label)
        area = number_column(path, annotations, "area", (), label)
        boxes = number_column(path, annotations, "bbox", (4,), label)
        finite = np.isfinite(boxes).all(-1) & np.isfinite(area)
        require_rows(path, finite, label, "bbox or area is not a finite number")
        center, size = _clip(boxes, np.array([sizes[i] for i in image_ids.tolist()]).reshape(-1, 2))

        labelled = (visibility > UNLABELLED).sum(-1)
        enough = labelled >= (max(1, self.min_labelled) if split == "train" else 1)
        keep = enough & (area > 0) & (size > 0).all(-1)
        used, image_index = np.unique(image_ids[keep], return_inverse=True)
        images = ImageFiles(
            self.root / "images" / f"{split}2017", [file_names[image_id] for image_id in used]
        )
        if self.check_images:
            require_images(f"COCO {split}", images, _GUIDE)
        persons = Persons(
            name=f"COCO {split}",
            skeleton=self.skeleton,
            images=images,
            ids=ids[keep].astype(np.str_),
            image_index=image_index.astype(np.int64),
            joints=joints[keep],
            visibility=visibility[keep].astype(np.int8),
            center=center[keep].astype(np.float32),
            box_size=(size[keep] * self.padding).astype(np.float32),
            reference_length=np.sqrt(area[keep]).astype(np.float32),
        )
        return _Split(persons, image_ids[keep])


def _read_annotations(
    path: Path,
) -> tuple[dict[int, tuple[int, int]], dict[int, str], list[dict[str, Any]]]:
    """Image id -> (width, height), image id -> file name, and the single persons' annotations."""
    # Outlines are most of the file; without dropping each at once they would fill gigabytes.
    content = read_json(path, object_hook=_without_outline)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise DataError(f"{path}: is not a COCO annotation file: it needs images and annotations")
    images = require_records(path, content["images"], "images")
    sizes, file_names = {}, {}
    for row, image in enumerate(images):
        match image:
            case {
                "id": int(id_),
                "width": int(width),
                "height": int(height),
                "file_name": str(name),
            }:
                sizes[id_] = width, height
                file_names[id_] = name
            case _:
                raise DataError(
                    f"{path}: image {image.get('id', row)}: needs id, width and height as whole "
                    "numbers and file_name as text"
                )
    annotations = require_records(path, content["annotations"], "annotations")
    single = [a for a in annotations if not a.get("iscrowd") and a.get("num_keypoints", 1)]
    return sizes, file_names, single


def _without_outline(record: dict[str, Any]) -> dict[str, Any]:
    record.pop("segmentation", None)
    return record


def _ids(
    path: Path, annotations: Sequence[dict[str, Any]], label: RecordLabel
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """Annotation ids, checked to be unique, and image ids."""
    ids, image_ids = (
        number_column(path, annotations, field, (), label) for field in ("id", "image_id")
    )
    for column in (ids, image_ids):
        whole = np.isfinite(column) & (column == np.round(column)) & (abs(column) < 2**53)
        require_rows(path, whole, label, "id and image_id must be whole numbers")
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    require_rows(path, first, label, "its id occurs before")
    return ids.astype(np.int64), image_ids.astype(np.int64)


def _keypoints(
    path: Path, annotations: Sequence[dict[str, Any]], label: RecordLabel
) -> tuple[Float32[np.ndarray, "N 17 2"], Float32[np.ndarray, "N 17"]]:
    """Joints (px, 0 where unlabelled) and visibility flags."""
    count = len(body.COCO)
    table = number_column(path, annotations, "keypoints", (3 * count,), label)
    table = table.astype(np.float32).reshape(-1, count, 3)
    joints, visibility = table[..., :2], table[..., 2]
    flags_ok = np.all(np.isin(visibility, (0, 1, 2)), axis=-1)
    require_rows(path, flags_ok, label, "a visibility flag of keypoints is not 0, 1 or 2")
    labelled = visibility[..., None] > UNLABELLED
    finite = np.all(np.isfinite(joints) | ~labelled, axis=(-2, -1))
    require_rows(path, finite, label, "a labelled joint is not a finite number")
    return np.where(labelled, joints, 0), visibility


def _clip(
    boxes: Float[np.ndarray, "N 4"], image_sizes: Float[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]:
    """Centre and (width, height) of boxes (x, y, w, h) clipped to the image, by HRNet's rules.

    HRNet measures a box from its first to its last pixel: one less than its width.
    """
    low = np.maximum(boxes[:, :2], 0)
    high = np.minimum(image_sizes - 1, low + np.maximum(boxes[:, 2:] - 1, 0))
    return (low + high) / 2, high - low

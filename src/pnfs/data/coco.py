"""COCO keypoints 2017 (Lin et al., ECCV 2014): persons in ground-truth or in detected boxes."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from pnfs import body
from pnfs.data.coco_format import (
    CROWD,
    EMPTY_BOX,
    NO_JOINTS,
    OTHER_CATEGORY,
    STATED_ZERO,
    Annotations,
    read_annotations,
)
from pnfs.data.geometry import fit_box
from pnfs.data.persons import UNLABELLED, DataError, ImageFiles, Persons
from pnfs.data.predictions import Matches, Predictions, matched_by_image, one_to_one
from pnfs.data.readers import (
    located,
    read_json,
    require_files,
    require_images,
    require_padding,
    require_records,
    require_split,
)
from pnfs.data.results_file import read_results, results_name, write_results
from pnfs.evaluation.average_precision import OKSAveragePrecision
from pnfs.evaluation.coco_eval import DetectedPoses, evaluate_by_visibility

Boxes = Literal["ground_truth", "detected"]
Suppression = Literal["oks", "soft", "none"]

TEST_SETS: Mapping[str, str] = {"train": "train2017", "val": "val2017", "test": "test-dev2017"}
"""Split -> what the benchmark calls it."""

PUBLISHED_ASPECT = 0.75
"""Width divided by height of the published crops (192×256, 288×384)."""

MATCHING_OVERLAP = 0.5
"""Intersection over union from which a detected box is a labelled person's."""

_ANNOTATIONS = {
    "train": "annotations/person_keypoints_train2017.json",
    "val": "annotations/person_keypoints_val2017.json",
    "test": "annotations/image_info_test-dev2017.json",
}
_IMAGES = {"train": "images/train2017", "val": "images/val2017", "test": "images/test2017"}
_DETECTIONS = {
    "val": "person_detection_results/COCO_val2017_detections_AP_H_56_person.json",
    "test": "person_detection_results/COCO_test-dev2017_detections_AP_H_609_person.json",
}

_DETECTIONS_GUIDE = """\
Detected person boxes are linked under "Data preparation" in the README of
github.com/leoxiaobin/deep-high-resolution-net.pytorch; any JSON file in COCO's result format will
do (image_id, category_id, bbox, score). Put it there, or name it with `detections`."""

_GUIDE = """\
Expected layout below root:
  images/train2017/   images/val2017/   000000000139.jpg, …
  annotations/person_keypoints_train2017.json   annotations/person_keypoints_val2017.json
Images ("2017 Train/Val images") and annotations ("2017 Train/Val annotations"):
https://cocodataset.org/#download
Split "test" is test-dev: images/test2017/ and annotations/image_info_test-dev2017.json.
Then set root to that folder."""


@dataclass(frozen=True)
class _Split:
    """What a split's annotation file holds."""

    annotations: Annotations
    sizes: dict[int, tuple[int, int]]
    """Image id -> (width, height)."""
    file_names: dict[int, str]


@dataclass(frozen=True)
class _Boxes:
    """Persons and the columns that only the benchmark's metric needs, row by row the same."""

    persons: Persons
    image_ids: Int64[np.ndarray, " N"]
    """COCO's image ids."""
    scores: Float32[np.ndarray, " N"]
    """The detector's; 1 for ground-truth boxes."""


class COCO:
    """COCO keypoints with HRNet's choice of persons, in ground-truth or detected boxes.

    Left out, and counted in `Persons.left_out` (HRNet, `lib/dataset/coco.py`): other categories,
    crowds, persons without labelled joints, and persons whose box, once clipped to the image, is
    empty; from "train" also persons with fewer than `min_labelled` labelled joints. An area that is
    missing or 0, with which HRNet leaves a person out, is taken from the box. What a file must hold:
    `pnfs.data.coco_format.read_annotations`. Coordinates are taken as they stand.

    The person box has the centre of the clipped box and its (width, height) × `padding`.
    `reference_length` is the square root of the annotated (segment) area in px: the object scale s
    of the benchmark's OKS, so that an error over it compares across persons.

    With `boxes="detected"` the persons of "val" and "test" are those of a detector: its boxes of
    category person as they stand, without labels. "train" is always labelled. Split "test" is
    test-dev; its labels are not public, so that its scores are nan.

    Args:
        root: Folder with `annotations` and `images`.
        padding: Factor on the sides of the person box.
        min_labelled: Labelled joints that a training person needs.
        check_images: Whether `persons` checks that all image files exist.
        boxes: Where the persons of "val" and "test" come from.
        detections: File of detected boxes in COCO's result format; None takes HRNet's file below
            `root/person_detection_results`.
        box_threshold: Detected boxes that score less are left out.
        joint_threshold: Joints that score more count in the person's score, which is the box's
            score times their mean.
        nms: What happens to several predictions of one person: "oks" drops, "soft" ranks lower
            and keeps 20 an image, "none" keeps all.
        nms_threshold: OKS above which two predictions are of one person.
        input_size: (height, width) of the network's crops. HRNet's code fits a box to their aspect
            ratio before it takes its area for OKS-NMS; None: 4:3, as the published crops have.

    Raises:
        DataError: Folders or annotation files are missing, `padding` is not positive, or `boxes`
            or `nms` is none of the choices.
    """

    skeleton = body.COCO
    splits = ("train", "val", "test")

    def __init__(
        self,
        root: Path | str,
        padding: float = 1.25,
        min_labelled: int = 1,
        check_images: bool = True,
        boxes: Boxes = "ground_truth",
        detections: Path | str | None = None,
        box_threshold: float = 0.0,
        joint_threshold: float = 0.2,
        nms: Suppression = "oks",
        nms_threshold: float = 0.9,
        input_size: Sequence[int] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.padding = require_padding(padding)
        self.min_labelled = min_labelled
        self.check_images = check_images
        _require_choice("boxes", boxes, get_args(Boxes))
        _require_choice("nms", nms, get_args(Suppression))
        self.boxes: Boxes = boxes
        self.detections = None if detections is None else Path(detections).expanduser()
        self.box_threshold = box_threshold
        self.joint_threshold = joint_threshold
        self.nms: Suppression = nms
        self.nms_threshold = nms_threshold
        self.aspect = PUBLISHED_ASPECT if input_size is None else input_size[1] / input_size[0]
        self._annotations: dict[str, _Split] = {}
        self._boxes: dict[tuple[str, str], _Boxes] = {}
        files = ["images", _ANNOTATIONS["train"], _ANNOTATIONS["val"]]
        require_files("COCO", self.root, files, _GUIDE)

    def persons(self, split: str) -> Persons:
        """The persons of "train", "val" or "test", in the file's order.

        Ids are COCO's annotation ids, or "<image id>/<n>" for the image's n-th detected box.

        Raises:
            DataError: No such split, a damaged annotation file or record, missing images, or
                ground-truth boxes of a split without labels.
        """
        return self._loaded(split, self._boxes_of(split)).persons

    def metric(self, split: str) -> OKSAveragePrecision:
        """COCO's keypoint average precision; `sample_index` are rows of `persons(split)`.

        Raises:
            DataError: As `persons`.
            ValueError: The annotation file lacks something that only the evaluation needs.
        """
        loaded = self._loaded(split, self._boxes_of(split))
        return OKSAveragePrecision(
            truth=self._ground_truth(split),
            image_ids=loaded.image_ids,
            areas=fit_box(loaded.persons.box_size, self.aspect).prod(axis=-1),
            box_scores=loaded.scores,
            joint_threshold=self.joint_threshold,
            nms_threshold=None if self.nms == "none" else self.nms_threshold,
            soft_nms=self.nms == "soft",
        )

    def evaluation_choices(self, split: str) -> Mapping[str, Any]:
        """Boxes, how they are chosen, and what becomes of several predictions of one person."""
        choices: dict[str, Any] = {"boxes": self._boxes_of(split).replace("_", " ")}
        if self._boxes_of(split) == "detected":
            choices["detections"] = self._detections_path(split).name
            choices["box_threshold"] = self.box_threshold
        choices |= {"joint_threshold": self.joint_threshold, "nms": self.nms}
        return choices if self.nms == "none" else choices | {"nms_threshold": self.nms_threshold}

    def matches(self, split: str, predictions: Predictions) -> Matches:
        """Labelled persons with the detected boxes that overlap them most, each used once.

        A person none of whose boxes has an overlap of MATCHING_OVERLAP is unmatched.
        """
        if self._boxes_of(split) == "ground_truth" or split == "test":
            return one_to_one(self.persons(split), predictions)
        labelled = self._loaded(split, "ground_truth")
        rows = _overlapping(labelled, self._loaded(split, "detected"))
        return Matches(labelled.persons, predictions, rows)

    def extra_scores(self, split: str, predictions: Predictions) -> Mapping[str, float]:
        """AP and AR over visible joints alone and over occluded joints alone, fractions."""
        if split == "test":
            return {}
        return evaluate_by_visibility(self._poses(split, predictions)[0], self._ground_truth(split))

    def write_predictions(
        self, split: str, predictions: Predictions, folder: Path, name: str
    ) -> Path:
        """Writes the results file that COCO's server takes, duplicates left out.

        Category and joint order are those of the annotation file, as other tools expect.
        """
        path = folder / results_name(TEST_SETS[split], name)
        read = self._read(split).annotations
        return write_results(path, read.to_file_order(self._results(split, predictions)))

    def image_ids(self, split: str) -> Int64[np.ndarray, " M"]:
        """COCO's ids of all images of a split."""
        return np.array(list(self._read(split).file_names), dtype=np.int64)

    def labels_digest(self, split: str) -> str:
        """A digest of what `metric` reads beside the persons: crowds, areas, images without persons, and all
        labels where the boxes are a detector's. Nothing for "train", which runs are not scored on."""
        if split == "train":
            return ""
        annotations = self._read(split).annotations
        read: dict[str, Any] = {
            "annotations": annotations.records,
            "category": annotations.category,
        }
        read["images"] = sorted(self._read(split).sizes.items())
        if self.boxes == "detected":
            found = self._loaded(split, "detected")
            columns = (found.image_ids, found.persons.center, found.persons.box_size, found.scores)
            read["detections"] = [column.tolist() for column in columns]
        return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()

    def box_scores(self, split: str) -> Float32[np.ndarray, " N"] | None:
        """The detector's score of each person's box; None for ground-truth boxes."""
        boxes = self._boxes_of(split)
        return self._loaded(split, boxes).scores if boxes == "detected" else None

    def in_labelled_boxes(self) -> "COCO":
        """The dataset in ground-truth boxes, by which training is watched; what was read is shared."""
        if self.boxes == "ground_truth":
            return self
        other = copy.copy(self)
        other.boxes = "ground_truth"
        return other

    def image_names(self, split: str) -> Mapping[int, str]:
        """COCO's image id -> file name, of all images of a split."""
        return self._read(split).file_names

    def annotations(self, split: str) -> Annotations:
        """What a split's annotation file holds; without persons for the test set."""
        return self._ground_truth(split)

    def labelled(self, split: str) -> tuple[Persons, Int64[np.ndarray, " N"]]:
        """The persons in ground-truth boxes, and COCO's id of each one's image.

        Raises:
            DataError: As `persons`.
        """
        loaded = self._loaded(split, "ground_truth")
        return loaded.persons, loaded.image_ids

    def _poses(
        self, split: str, predictions: Predictions
    ) -> tuple[DetectedPoses, Int64[np.ndarray, " M"]]:
        """The predictions without duplicates, and which ones they are."""
        samples = np.arange(len(predictions))
        return self.metric(split).poses(predictions.locations, predictions.scores, samples)

    def _results(self, split: str, predictions: Predictions) -> list[dict[str, Any]]:
        """Predictions in COCO's result format, duplicates left out."""
        poses, rows = self._poses(split, predictions)
        scores = predictions.scores[rows].astype(np.float64)
        return [
            {"image_id": image_id, "category_id": self._ground_truth(split).category,
             "keypoints": keypoints, "score": score}
            for image_id, keypoints, score in zip(
                poses.image_ids.tolist(),
                np.dstack([poses.joints, scores]).reshape(len(rows), -1).tolist(),
                poses.scores.tolist(), strict=True,
            )
        ]  # fmt: skip

    def _boxes_of(self, split: str) -> Boxes:
        return "ground_truth" if split == "train" else self.boxes

    def _ground_truth(self, split: str) -> Annotations:
        return self._read(split).annotations

    def _detections_path(self, split: str) -> Path:
        return self.root / _DETECTIONS[split] if self.detections is None else self.detections

    def _read(self, split: str) -> _Split:
        require_split("COCO", split, self.splits)
        if split in self._annotations:
            return self._annotations[split]
        require_files("COCO", self.root, [_ANNOTATIONS[split]], _GUIDE)
        read = _read_split(self.root / _ANNOTATIONS[split], labelled=split != "test")
        if split != "train":
            self._annotations[split] = read
        return read

    def _loaded(self, split: str, boxes: Boxes) -> _Boxes:
        require_split("COCO", split, self.splits)
        if (split, boxes) not in self._boxes:
            if boxes == "ground_truth" and split == "test":
                raise DataError(
                    "COCO: split 'test' has no public labels, so no ground-truth boxes: choose "
                    "boxes=detected"
                )
            load = self._labelled if boxes == "ground_truth" else self._detected
            self._boxes[split, boxes] = load(split)
        return self._boxes[split, boxes]

    def _labelled(self, split: str) -> _Boxes:
        split_file = self._read(split)
        read = split_file.annotations
        sizes = np.array([split_file.sizes[i] for i in read.image_ids.tolist()]).reshape(-1, 2)
        center, size = _clip(read.boxes, sizes)
        keep, left_out = _reasons(read, size, self.min_labelled if split == "train" else 1)
        images, image_index = self._images(split, split_file, read.image_ids[keep])
        persons = Persons(
            name=f"COCO {split}",
            skeleton=self.skeleton,
            images=images,
            ids=read.ids[keep].astype(np.str_),
            image_index=image_index,
            joints=read.joints[keep].astype(np.float32),
            visibility=read.visibility[keep].astype(np.int8),
            center=center[keep].astype(np.float32),
            box_size=(size[keep] * self.padding).astype(np.float32),
            reference_length=np.sqrt(read.area[keep]).astype(np.float32),
            left_out=left_out,
            remarks=read.remarks,
            file=read.where,
        )
        return _Boxes(persons, read.image_ids[keep], np.ones(len(persons), np.float32))

    def _detected(self, split: str) -> _Boxes:
        path, read = self._detections_path(split), self._read(split)
        if not path.is_file():
            raise DataError(f"COCO: {path} is missing{located(path)}.\n{_DETECTIONS_GUIDE}")
        records = require_records(path, read_json(path), "the file")
        found = read_results(path, records, read.annotations, {"bbox": 4})
        image_ids, boxes, scores = found["image_id"], found["bbox"], found["score"]
        empty, low = ~(boxes[:, 2:] > 0).all(-1), scores < self.box_threshold
        keep = ~empty & ~low
        left_out = {
            OTHER_CATEGORY: len(records) - len(scores),
            "boxes without extent": int(empty.sum()),
            f"boxes that score less than {self.box_threshold}": int((low & ~empty).sum()),
        }
        image_ids, boxes, scores = image_ids[keep], boxes[keep], scores[keep]
        persons = self.persons_in(split, image_ids, boxes, f"COCO {split}, detected boxes")
        counted = {reason: number for reason, number in left_out.items() if number}
        persons = replace(persons, left_out=counted, file=str(path))
        return _Boxes(persons, image_ids, scores.astype(np.float32))

    def persons_in(
        self,
        split: str,
        image_ids: Int64[np.ndarray, " N"],
        boxes: Float[np.ndarray, "N 4"],
        name: str,
    ) -> Persons:
        """Unlabelled persons in boxes (x, y, width, height) of a split's images.

        Raises:
            DataError: An image file is missing.
        """
        images, image_index = self._images(split, self._read(split), image_ids)
        count = len(boxes)
        return Persons(
            name=name,
            skeleton=self.skeleton,
            images=images,
            ids=_numbered(image_ids),
            image_index=image_index,
            joints=np.zeros((count, len(self.skeleton), 2), np.float32),
            visibility=np.full((count, len(self.skeleton)), UNLABELLED, np.int8),
            center=(boxes[:, :2] + boxes[:, 2:] / 2).astype(np.float32),
            box_size=(boxes[:, 2:] * self.padding).astype(np.float32),
            reference_length=np.full(count, np.nan, np.float32),
        )

    def _images(
        self, split: str, read: _Split, image_ids: Int64[np.ndarray, " N"]
    ) -> tuple[ImageFiles, Int64[np.ndarray, " N"]]:
        """The image files that persons are in, and which of them each person is in."""
        used, image_index = np.unique(image_ids, return_inverse=True)
        names = [read.file_names[image_id] for image_id in used.tolist()]
        images = ImageFiles(self.root / _IMAGES[split], names)
        if self.check_images:
            require_images(f"COCO {split}", images, _GUIDE)
        return images, image_index.astype(np.int64)


def _require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise DataError(f"COCO: {name} must be one of {', '.join(choices)}, not {value!r}")


def _read_split(path: Path, labelled: bool) -> _Split:
    """A split's file; one of a test set has no annotations."""
    annotations = read_annotations(path, COCO.skeleton, labelled=labelled)
    sizes, file_names = {}, {}
    for row, image in enumerate(annotations.images):
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
    return _Split(annotations, sizes, file_names)


def _reasons(
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
    counts: dict[int, int] = {}
    ids = []
    for image_id in image_ids.tolist():
        number = counts.get(image_id, 0)
        ids.append(f"{image_id}/{number}")
        counts[image_id] = number + 1
    return np.array(ids, dtype=np.str_)


def _overlapping(labelled: _Boxes, detected: _Boxes) -> Int64[np.ndarray, " M"]:
    """Row of the detected box of each labelled person, or UNMATCHED."""

    def overlap(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return _overlap(labelled.persons.subset(ours), detected.persons.subset(theirs))

    return matched_by_image(labelled.image_ids, detected.image_ids, overlap, MATCHING_OVERLAP)


def _overlap(first: Persons, second: Persons) -> Float[np.ndarray, "N M"]:
    """Intersection over union of every box with every other."""
    low = np.maximum(
        (first.center - first.box_size / 2)[:, None], (second.center - second.box_size / 2)[None]
    )
    high = np.minimum(
        (first.center + first.box_size / 2)[:, None], (second.center + second.box_size / 2)[None]
    )
    both = np.maximum(high - low, 0).prod(-1)
    return both / (first.box_size.prod(-1)[:, None] + second.box_size.prod(-1)[None] - both)


def _clip(
    boxes: Float[np.ndarray, "N 4"], image_sizes: Float[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]:
    """Centre and (width, height) of boxes (x, y, w, h) clipped to the image, by HRNet's rules.

    HRNet measures a box from its first to its last pixel: one less than its width.
    """
    low = np.maximum(boxes[:, :2], 0)
    high = np.minimum(image_sizes - 1, low + np.maximum(boxes[:, 2:] - 1, 0))
    return (low + high) / 2, high - low

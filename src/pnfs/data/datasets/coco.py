"""COCO keypoints 2017 (Lin et al., ECCV 2014), and any dataset in its format, of persons or not."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torchvision.ops import box_iou

from pnfs import body
from pnfs.body import Skeleton, skeleton_by_name
from pnfs.data.coco_format import (
    CROWD,
    EMPTY_BOX,
    NO_JOINTS,
    OTHER_CATEGORY,
    STATED_ZERO,
    Annotations,
    Wanted,
    read_annotations,
)
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.geometry import fit_box
from pnfs.data.images import DataError, ImageFiles
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.data.predictions import Matches, Predictions, matched_by_image
from pnfs.data.readers import located, read_json, require_records
from pnfs.data.results_file import read_results, results_name, write_results
from pnfs.evaluation.average_precision import OKSAveragePrecision
from pnfs.evaluation.coco_eval import DetectedPoses, evaluate_by_visibility
from pnfs.evaluation.oks import similarity_sigmas

Boxes = Literal["ground_truth", "detected"]
Suppression = Literal["oks", "soft", "none"]

PUBLISHED_ASPECT = 0.75
"""Width divided by height of the published crops (192×256, 288×384)."""

MATCHING_OVERLAP = 0.5
"""Intersection over union from which a detected box is a labelled person's."""

FILES: Mapping[str, Mapping[str, str]] = {
    "train": {
        "annotations": "annotations/person_keypoints_train2017.json",
        "images": "images/train2017",
    },
    "val": {
        "annotations": "annotations/person_keypoints_val2017.json",
        "images": "images/val2017",
        "detections": "person_detection_results/COCO_val2017_detections_AP_H_56_person.json",
    },
    "test": {
        "annotations": "annotations/image_info_test-dev2017.json",
        "images": "images/test2017",
        "detections": "person_detection_results/COCO_test-dev2017_detections_AP_H_609_person.json",
    },
}
"""COCO's own layout below root."""

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
class _Boxes:
    """Persons and the columns that only the benchmark's metric needs, row by row the same."""

    persons: Persons
    image_ids: Int64[np.ndarray, " N"]
    """COCO's image ids."""
    scores: Float32[np.ndarray, " N"]
    """The detector's; 1 for ground-truth boxes."""


class COCO(PoseDataset):
    """Keypoints in COCO's format with HRNet's choice of persons, in ground-truth or detected boxes.

    Left out, and counted in `Persons.left_out` (HRNet, `lib/dataset/coco.py`): other categories,
    crowds, persons without labelled joints, and persons whose box, once clipped to the image, is
    empty; from "train" also persons with fewer than `min_labelled` labelled joints. An area that is
    missing or 0, with which HRNet leaves a person out, is taken from the box. What a file must hold:
    `pnfs.data.coco_format.read_annotations`. Coordinates are taken as they stand.

    The person box has the centre of the clipped box and its (width, height) × `padding`.
    `reference_length` is the square root of the annotated (segment) area in px: the object scale s
    of the benchmark's OKS, so that an error over it compares across persons.

    With `boxes="detected"` the persons of all splits but "train" are those of a detector: its boxes
    of the category as they stand, without labels. COCO's split "test" is test-dev; its labels are
    not public, so that its scores are nan.

    Args:
        root: Folder with `annotations` and `images`.
        padding: Factor on the sides of the person box.
        min_labelled: Labelled joints that a training person needs.
        check_images: Whether `persons` checks that all image files exist.
        boxes: Where the persons of the other splits come from.
        detections: File of detected boxes in COCO's result format; None takes that of `files`.
        box_threshold: Detected boxes that score less are left out.
        joint_threshold: Joints that score more count in the person's score, which is the box's
            score times their mean.
        nms: What happens to several predictions of one person: "oks" drops, "soft" ranks lower
            and keeps 20 an image, "none" keeps all.
        nms_threshold: OKS above which two predictions are of one person.
        input_size: (height, width) of the network's crops. HRNet's code fits a box to their aspect
            ratio before it takes its area for OKS-NMS; None: 4:3, as the published crops have.
        skeleton: Joints of the category: a skeleton, its name, or its description (see `pnfs.body.Skeleton`).
        category: Name or names of the categories that are read, such as kinds of animals; None: all
            that have the skeleton's joints.
        files: Split -> "annotations", "images" and perhaps "detections", paths below `root`; None:
            COCO's own layout.

    Raises:
        DataError: Folders or annotation files are missing, `padding` is not positive, or `boxes`
            or `nms` is none of the choices.
    """

    name = "COCO"
    splits = ("train", "val", "test")
    guide = _GUIDE

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
        skeleton: Skeleton | Mapping[str, Any] | str = "coco",
        category: Wanted = "person",
        files: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        for key, value, choices in (("boxes", boxes, Boxes), ("nms", nms, Suppression)):
            if value not in get_args(choices):
                raise DataError(
                    f"COCO: {key} must be one of {', '.join(get_args(choices))}, not {value!r}"
                )
        self.files = FILES if files is None else files
        if files is not None:
            self.splits = tuple(files)
            wrong = [s for s in files if not {"annotations", "images"} <= files[s].keys()]
            if wrong or not {"train", "val"} <= files.keys():
                raise DataError("files needs train and val, and annotations and images for each")
            listed = "\n".join(f"  {split}: {', '.join(files[split].values())}" for split in files)
            self.guide = f"Expected below root:\n{listed}"
        self.skeleton = skeleton_by_name(skeleton)
        if self.skeleton.name != body.COCO.name:
            self.name = f"COCO ({self.skeleton.name})"
        self.required = ("images", *(self.files[s]["annotations"] for s in ("train", "val")))
        if files is not None:
            self.required = self.required[1:]
        super().__init__(root, padding, check_images)
        self.min_labelled = min_labelled
        self.boxes: Boxes = boxes
        self.detections = None if detections is None else Path(detections).expanduser()
        self.box_threshold = box_threshold
        self.joint_threshold = joint_threshold
        self.nms: Suppression = nms
        self.nms_threshold = nms_threshold
        self.aspect = PUBLISHED_ASPECT if input_size is None else input_size[1] / input_size[0]
        self.category = category
        self._annotations: dict[str, Annotations] = {}
        self._boxes: dict[tuple[str, str], _Boxes] = {}

    def load(self, split: str) -> Persons:
        """Ids are COCO's annotation ids, or "<image id>/<n>" for the image's n-th detected box."""
        return self._loaded(split, self._boxes_of(split)).persons

    def metric(self, split: str) -> OKSAveragePrecision:
        """COCO's keypoint average precision; `sample_index` are rows of `persons(split)`.

        Raises:
            DataError: As `persons`.
            ValueError: The annotation file lacks something that only the evaluation needs.
        """
        self.require_split(split)
        loaded = self._loaded(split, self._boxes_of(split))
        return OKSAveragePrecision(
            truth=self.annotations(split),
            image_ids=loaded.image_ids,
            areas=fit_box(loaded.persons.box_size, self.aspect).prod(axis=-1),
            box_scores=loaded.scores,
            sigmas=similarity_sigmas(self.skeleton),
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
        if self._boxes_of(split) == "ground_truth" or self._unlabelled(split):
            return super().matches(split, predictions)
        labelled, found = (self._loaded(split, boxes) for boxes in get_args(Boxes))
        corners, detected = _corners(labelled.persons), _corners(found.persons)
        rows = matched_by_image(
            labelled.image_ids,
            found.image_ids,
            lambda ours, theirs: box_iou(corners[ours], detected[theirs]).numpy(),
            MATCHING_OVERLAP,
        )
        return Matches(labelled.persons, predictions, rows)

    def extra_scores(self, split: str, predictions: Predictions) -> Mapping[str, float]:
        """AP and AR over visible joints alone and over occluded joints alone, fractions."""
        if self._unlabelled(split):
            return {}
        poses, _ = self._poses(split, predictions)
        sigmas = similarity_sigmas(self.skeleton)
        return evaluate_by_visibility(poses, self.annotations(split), sigmas)

    def write_predictions(
        self, split: str, predictions: Predictions, folder: Path, name: str
    ) -> Path:
        """Writes the results file that COCO's server takes, duplicates left out.

        Category and joint order are those of the annotation file, as other tools expect.
        """
        test_sets = {"train": "train2017", "val": "val2017", "test": "test-dev2017"}
        path = folder / results_name(test_sets.get(split, split), name)
        poses, rows = self._poses(split, predictions)
        read = self.annotations(split)
        table = np.dstack([poses.joints, predictions.scores[rows].astype(np.float64)])
        in_file_order = table[:, np.argsort(read.order)].reshape(len(rows), -1)
        return write_results(path, poses.image_ids, read.category, in_file_order, poses.scores)

    def labels_digest(self, split: str) -> str:
        """A digest of what `metric` reads beside the persons: crowds, areas, images without persons, and all
        labels where the boxes are a detector's. Nothing for "train", which runs are not scored on."""
        if split == "train":
            return ""
        read = self.annotations(split)
        columns = [read.ids, read.image_ids, read.joints, read.visibility, read.boxes, read.area]
        columns += [read.crowd, read.usable]
        if self.boxes == "detected":
            found = self._loaded(split, "detected")
            columns += [found.image_ids, found.persons.center, found.persons.box_size, found.scores]
        digest = hashlib.sha256(repr(sorted(_image_table(read).items())).encode())
        for column in columns:
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def box_scores(self, split: str) -> Float32[np.ndarray, " N"] | None:
        """The detector's score of each person's box; None for ground-truth boxes."""
        boxes = self._boxes_of(split)
        return self._loaded(split, boxes).scores if boxes == "detected" else None

    def in_labelled_boxes(self) -> "COCO":
        """The dataset in ground-truth boxes; what was read is shared."""
        if self.boxes == "ground_truth":
            return self
        other = copy.copy(self)
        other.boxes, other._persons = "ground_truth", {}
        return other

    def image_names(self, split: str) -> Mapping[int, str]:
        """COCO's image id -> file name, of all images of a split."""
        return {number: name for number, (name, _) in _image_table(self.annotations(split)).items()}

    def annotations(self, split: str) -> Annotations:
        """What a split's annotation file holds; without persons for COCO's test set."""
        self.require_split(split)
        if split in self._annotations:
            return self._annotations[split]
        file = self.files[split]["annotations"]
        self.require_files([file])
        read = read_annotations(
            self.root / file,
            self.skeleton,
            category=self.category,
            labelled=not self._unlabelled(split),
        )
        if split != "train":
            self._annotations[split] = read
        return read

    def labelled(self, split: str) -> tuple[Persons, Int64[np.ndarray, " N"]]:
        """The persons in ground-truth boxes, and COCO's id of each one's image.

        Raises:
            DataError: As `persons`.
        """
        loaded = self._loaded(split, "ground_truth")
        return loaded.persons, loaded.image_ids

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
        images, image_index = self._images(split, image_ids, _image_table(self.annotations(split)))
        count, joints = len(boxes), len(self.skeleton)
        return Persons(
            name=name,
            skeleton=self.skeleton,
            images=images,
            ids=_numbered(image_ids),
            image_index=image_index,
            joints=np.zeros((count, joints, 2), np.float32),
            visibility=np.full((count, joints), UNLABELLED, np.int8),
            center=(boxes[:, :2] + boxes[:, 2:] / 2).astype(np.float32),
            box_size=(boxes[:, 2:] * self.padding).astype(np.float32),
            reference_length=np.full(count, np.nan, np.float32),
        )

    def _poses(
        self, split: str, predictions: Predictions
    ) -> tuple[DetectedPoses, Int64[np.ndarray, " M"]]:
        """The predictions without duplicates, and which ones they are."""
        samples = np.arange(len(predictions))
        return self.metric(split).poses(predictions.locations, predictions.scores, samples)

    def _boxes_of(self, split: str) -> Boxes:
        return "ground_truth" if split == "train" else self.boxes

    def _unlabelled(self, split: str) -> bool:
        """Whether the split's file is a list of images, as COCO has them for its test sets."""
        return Path(self.files[split]["annotations"]).name.startswith("image_info")

    def _detections_path(self, split: str) -> Path:
        if self.detections is None and "detections" not in self.files[split]:
            raise DataError(f"{self.name}: boxes=detected needs detections=<file> for {split!r}")
        return self.detections or self.root / self.files[split]["detections"]

    def _loaded(self, split: str, boxes: Boxes) -> _Boxes:
        self.require_split(split)
        if (split, boxes) not in self._boxes:
            if boxes == "ground_truth" and self._unlabelled(split):
                raise DataError(
                    f"{self.name}: split {split!r} has no public labels, so no ground-truth boxes: "
                    "choose boxes=detected"
                )
            load = self._labelled if boxes == "ground_truth" else self._detected
            self._boxes[split, boxes] = load(split)
        return self._boxes[split, boxes]

    def _labelled(self, split: str) -> _Boxes:
        read = self.annotations(split)
        table = _image_table(read)
        sizes = np.array([table[i][1] for i in read.image_ids.tolist()]).reshape(-1, 2)
        center, size = _clip(read.boxes, sizes)
        keep, left_out = _reasons(read, size, self.min_labelled if split == "train" else 1)
        images, image_index = self._images(split, read.image_ids[keep], table)
        persons = Persons(
            name=f"{self.name} {split}",
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
        path, read = self._detections_path(split), self.annotations(split)
        if not path.is_file():
            raise DataError(f"{self.name}: {path} is missing{located(path)}.\n{_DETECTIONS_GUIDE}")
        records = require_records(path, read_json(path), "the file")
        found = read_results(path, records, read, {"bbox": 4})
        image_ids, boxes, scores = found["image_id"], found["bbox"], found["score"]
        empty, low = ~(boxes[:, 2:] > 0).all(-1), scores < self.box_threshold
        keep = ~empty & ~low
        left_out = {
            OTHER_CATEGORY: len(records) - len(scores),
            "boxes without extent": int(empty.sum()),
            f"boxes that score less than {self.box_threshold}": int((low & ~empty).sum()),
        }
        image_ids, boxes, scores = image_ids[keep], boxes[keep], scores[keep]
        name = f"{self.name} {split}, detected boxes"
        persons = self.persons_in(split, image_ids, boxes, name)
        counted = {reason: number for reason, number in left_out.items() if number}
        persons = replace(persons, left_out=counted, file=str(path))
        return _Boxes(persons, image_ids, scores.astype(np.float32))

    def _images(
        self,
        split: str,
        image_ids: Int64[np.ndarray, " N"],
        table: Mapping[int, tuple[str, tuple[int, int]]],
    ) -> tuple[ImageFiles, Int64[np.ndarray, " N"]]:
        """The image files that persons are in, and which of them each person is in."""
        used, image_index = np.unique(image_ids, return_inverse=True)
        names = [table[image_id][0] for image_id in used.tolist()]
        images = self.image_files(split, self.files[split]["images"], names)
        return images, image_index.astype(np.int64)


def _image_table(read: Annotations) -> dict[int, tuple[str, tuple[int, int]]]:
    """Image id -> file name, (width, height)."""
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
    order = np.argsort(image_ids, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) - np.searchsorted(image_ids[order], image_ids[order])
    pairs = zip(image_ids.tolist(), number.tolist(), strict=True)
    return np.array([f"{image_id}/{count}" for image_id, count in pairs], dtype=np.str_)


def _corners(persons: Persons) -> torch.Tensor:
    """(N, 4) x, y of the upper left and the lower right corner."""
    half = persons.box_size.astype(np.float64) / 2
    return torch.from_numpy(np.hstack([persons.center - half, persons.center + half]))


def _clip(
    boxes: Float[np.ndarray, "N 4"], image_sizes: Float[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]:
    """Centre and (width, height) of boxes (x, y, w, h) clipped to the image, by HRNet's rules.

    HRNet measures a box from its first to its last pixel: one less than its width.
    """
    low = np.maximum(boxes[:, :2], 0)
    high = np.minimum(image_sizes - 1, low + np.maximum(boxes[:, 2:] - 1, 0))
    return (low + high) / 2, high - low

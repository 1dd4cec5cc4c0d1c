"""COCO keypoints 2017 (Lin et al., ECCV 2014), and any dataset in its format, of persons or not."""

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float32
from torchvision.ops import box_iou

from pnfs import body
from pnfs.body import Skeleton, skeleton_by_name
from pnfs.data import coco_format
from pnfs.data.coco_format import Annotations, PersonsInBoxes, Wanted, image_table
from pnfs.data.datasets.base import GROUND_TRUTH_BOXES, PoseDataset
from pnfs.data.geometry import fit_box
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED, Matches, PoseFile, Predictions, aligned, counted, matched_by_image
from pnfs.evaluation.coco_eval import (
    DetectedPoses,
    OKSAveragePrecision,
    evaluate_detections,
    oks,
    similarity_sigmas,
)

Boxes = Literal["ground_truth", "detected"]
Suppression = Literal["oks", "soft", "none"]
SIMILAR = 0.1
"""OKS from which a pose in a file is a labelled person's where pictures and rates by joint need to know."""
MATCHING_OVERLAP = 0.5  # Intersection over union from which a detected box is a labelled person's.

FILES: Mapping[str, Mapping[str, str]] = {
    "train": {"annotations": "annotations/person_keypoints_train2017.json", "images": "images/train2017"},
    "val": {"annotations": "annotations/person_keypoints_val2017.json", "images": "images/val2017",
            "detections": "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"},
    "test": {"annotations": "annotations/image_info_test-dev2017.json", "images": "images/test2017",
             "detections": "person_detection_results/COCO_test-dev2017_detections_AP_H_609_person.json"},
}  # fmt: skip
"""COCO's own layout below root."""


class COCO(PoseDataset):
    """Keypoints in COCO's format with HRNet's choice of persons, in ground-truth or detected boxes.

    Left out, and counted in `Persons.left_out` (HRNet, `lib/dataset/coco.py`): other categories, crowds, persons
    without labelled joints, and persons whose box, once clipped to the image, is empty. An area that is missing or
    0, with which HRNet leaves a person out, is taken from the box.

    The person box has the centre of the clipped box and its (width, height) × `padding`. `reference_length` is the
    square root of the annotated (segment) area in px, the scale s of OKS. With `boxes="detected"` the persons of
    all splits but "train" are a detector's boxes as they stand, without labels. COCO's split "test" is test-dev,
    without public labels: its scores are nan. As in HRNet's code OKS-NMS takes areas of boxes with the aspect of
    `input_size`, or 4:3. Ids are COCO's annotation ids, or "<image id>/<n>" for the image's n-th detected box.

    Arguments are the keys of conf/dataset/coco.yaml, which explains them.
    """

    name = "COCO"
    splits = ("train", "val", "test")
    guide = """\
Expected layout below root:
  images/train2017/   images/val2017/   000000000139.jpg, …
  annotations/person_keypoints_train2017.json   annotations/person_keypoints_val2017.json
"2017 Train/Val images" and "2017 Train/Val annotations" of https://cocodataset.org/#download.
Split "test" is test-dev: images/test2017/ and annotations/image_info_test-dev2017.json.
boxes=detected: detections of HRNet's README, github.com/leoxiaobin/deep-high-resolution-net.pytorch."""

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
        for key, value, kind in (("boxes", boxes, Boxes), ("nms", nms, Suppression)):
            if value not in get_args(kind):
                raise DataError(f"COCO: {key} is {', '.join(get_args(kind))}, not {value!r}")
        self.files, self.splits = files or FILES, tuple(files or FILES)
        wrong = [split for split in self.files.values() if not {"annotations", "images"} <= split.keys()]
        if wrong or not {"train", "val"} <= self.files.keys():
            raise DataError("files needs train and val, and annotations and images for each")
        self.required = tuple(self.files[s][key] for s in ("train", "val") for key in ("annotations", "images"))
        self.skeleton = skeleton_by_name(skeleton)
        if self.skeleton.name != body.COCO.name:
            self.name = f"COCO ({self.skeleton.name})"
        super().__init__(root, padding, check_images)
        self.min_labelled, self.category = min_labelled, category
        self.boxes: Boxes = boxes
        self.detections = None if detections is None else Path(detections).expanduser()
        self.box_threshold, self.joint_threshold = box_threshold, joint_threshold
        self.nms, self.nms_threshold = nms, nms_threshold
        self.aspect = 0.75 if input_size is None else input_size[1] / input_size[0]
        self.sigmas = similarity_sigmas(self.skeleton)
        self._read: dict[tuple[str, bool], PersonsInBoxes] = {}
        self._annotations: dict[str, Annotations] = {}

    def load(self, split: str) -> PersonsInBoxes:
        self.require_split(split)
        key = split, detected = split, self._is_detected(split)
        if key not in self._read:
            self._read[key] = self._detected(split) if detected else self._labelled(split)
        return self._read[key]

    def metric(self, split: str) -> OKSAveragePrecision:
        """COCO's keypoint average precision; `sample_index` are rows of `persons(split)`."""
        persons = self.load(split)
        return OKSAveragePrecision(
            truth=self.annotations(split),
            image_ids=persons.image_ids,
            areas=fit_box(persons.box_size, self.aspect).prod(axis=-1),
            box_scores=persons.box_scores,
            sigmas=self.sigmas,
            joint_threshold=self.joint_threshold,
            nms_threshold=None if self.nms == "none" else self.nms_threshold,
            soft_nms=self.nms == "soft",
        )

    def evaluation_choices(self, split: str) -> Mapping[str, Any]:
        """Boxes, how they are chosen, and what becomes of several predictions of one person."""
        choices: dict[str, Any] = {**GROUND_TRUTH_BOXES}
        if self._is_detected(split):
            file = self._detections_path(split).name
            choices = {"boxes": "detected", "detections": file, "box_threshold": self.box_threshold}
        choices |= {"joint_threshold": self.joint_threshold, "nms": self.nms}
        return choices if self.nms == "none" else choices | {"nms_threshold": self.nms_threshold}

    def matches(self, split: str, predictions: Predictions) -> Matches:
        """Labelled persons with the detected boxes that overlap them most, each used once."""
        if not self._is_detected(split) or self._unlabelled(split):
            return super().matches(split, predictions)
        labelled, found = self.in_labelled_boxes().load(split), self.load(split)
        ours, theirs = labelled.corners(), found.corners()
        images = labelled.image_ids, found.image_ids
        rows = matched_by_image(*images, lambda m, n: box_iou(ours[m], theirs[n]).numpy(), MATCHING_OVERLAP)
        return Matches(labelled, predictions, rows)

    def write_predictions(self, split: str, predictions: Predictions, folder: Path, name: str) -> Path:
        """Writes the results file that COCO's server takes, duplicates left out."""
        test_set = {"val": "val2017", "test": "test-dev2017"}.get(split, split)
        name = re.sub(r"[^A-Za-z0-9._-]", "-", name)
        path = folder / f"person_keypoints_{test_set}_{name}_results.json"
        samples = np.arange(len(predictions))
        poses, rows = self.metric(split).poses(predictions.locations, predictions.scores, samples)
        return coco_format.write_results(path, self.annotations(split), poses, predictions.scores[rows])

    def read_predictions(self, split: str, path: Path) -> PoseFile:
        """Reads COCO's results, with the poses' scores; image ids, category and joints are the annotation file's.

        Each labelled person gets the pose of its image that is most similar to its label (OKS).
        """
        labels, truth, count = self.in_labelled_boxes().load(split), self.annotations(split), len(self.skeleton)
        found, left_out = coco_format.read_results(path, truth, {"keypoints": 3 * count})
        # A list names no joints: they stand in the order of the annotation file.
        table = found["keypoints"].reshape(-1, count, 3)[:, list(truth.order)]
        areas, labelled = labels.reference_length.astype(np.float64) ** 2, labels.visibility > UNLABELLED

        def similarity(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
            offset = labels.joints[ours].astype(np.float64)[:, None] - table[theirs, :, :2]
            return oks((offset**2).sum(-1), areas[ours][:, None], self.sigmas, labelled[ours][:, None])

        rows = matched_by_image(labels.image_ids, found["image_id"], similarity, SIMILAR)
        poses = DetectedPoses(found["image_id"], table[..., :2], found["score"])
        scores = evaluate_detections(poses, truth, self.sigmas)
        matches = aligned(labels, table[..., :2], table[..., 2], rows)
        return PoseFile("COCO results", matches, len(table), left_out, scores)

    def labels_digest(self, split: str) -> str:
        """A digest of the files that `metric` reads crowds, areas, images without persons and detected boxes from;
        nothing for "train", which runs are not scored on."""
        files = [] if split == "train" else [self.root / self.files[split]["annotations"]]
        if files and self.boxes == "detected":
            files.append(self._detections_path(split))
        return "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)

    def box_scores(self, split: str) -> Float32[np.ndarray, " N"] | None:
        """The detector's score of each person's box; None for ground-truth boxes."""
        return self.load(split).box_scores if self._is_detected(split) else None

    def in_labelled_boxes(self) -> "COCO":
        """The dataset in ground-truth boxes; what was read is shared."""
        if self.boxes == "ground_truth":
            return self
        other = copy.copy(self)
        other.boxes, other._persons = "ground_truth", {}
        return other

    def annotations(self, split: str) -> Annotations:
        """What a split's annotation file holds; without persons for COCO's test set."""
        self.require_split(split)
        if split in self._annotations:
            return self._annotations[split]
        file, labelled = self.files[split]["annotations"], not self._unlabelled(split)
        self.require_files([file])
        read = coco_format.read_annotations(self.root / file, self.skeleton, self.category, labelled=labelled)
        if split != "train":  # Too large to be kept for nothing.
            self._annotations[split] = read
        return read

    def _is_detected(self, split: str) -> bool:
        return split != "train" and self.boxes == "detected"

    def _unlabelled(self, split: str) -> bool:
        """Whether the split's file is a list of images, as COCO has them for its test sets."""
        return Path(self.files[split]["annotations"]).name.startswith("image_info")

    def _detections_path(self, split: str) -> Path:
        if self.detections is None and "detections" not in self.files[split]:
            raise DataError(f"{self.name}: boxes=detected needs detections=<file> for {split!r}")
        return self.detections or self.root / self.files[split]["detections"]

    def _labelled(self, split: str) -> PersonsInBoxes:
        """The usable persons of a split's annotations, in ground-truth boxes."""
        if self._unlabelled(split):
            raise DataError(f"{self.name}: split {split!r} has no public labels: choose boxes=detected")
        read = self.annotations(split)
        table = image_table(read)
        sizes = np.array([table[i][1] for i in read.image_ids.tolist()]).reshape(-1, 2)
        # Clipped to the image as HRNet does: from the box's first to its last pixel, one less than its width.
        low = np.maximum(read.boxes[:, :2], 0)
        high = np.minimum(sizes - 1, low + np.maximum(read.boxes[:, 2:] - 1, 0))
        fewest = self.min_labelled if split == "train" else 1
        labelled = (read.visibility > UNLABELLED).sum(-1)
        keep, reasons = np.ones(len(read.ids), bool), {}
        for reason, wrong in (
            (coco_format.CROWD, read.crowd),
            (coco_format.NO_JOINTS, labelled == 0),
            (coco_format.STATED_ZERO, ~read.usable),
            (coco_format.EMPTY_BOX, ~(high - low > 0).all(-1)),
            (f"with fewer than {fewest} labelled joints", labelled < fewest),
        ):
            # Each is counted by the first reason that applies.
            reasons[reason] = keep & wrong
            keep &= ~wrong
        low, high = low[keep], high[keep]
        return self._in_boxes(
            split,
            table,
            name=f"{self.name} {split}",
            ids=read.ids[keep].astype(np.str_),
            image_ids=read.image_ids[keep],
            joints=read.joints[keep].astype(np.float32),
            visibility=read.visibility[keep].astype(np.int8),
            center=(low + high) / 2,
            size=high - low,
            reference_length=np.sqrt(read.area[keep]).astype(np.float32),
            box_scores=np.ones(len(low), np.float32),
            left_out={**read.left_out, **counted(reasons)},
            remarks=read.remarks,
            file=read.where,
        )

    def _detected(self, split: str) -> PersonsInBoxes:
        """The persons that a detector found, as they stand in its results file."""
        path, read = self._detections_path(split), self.annotations(split)
        found, left_out = coco_format.read_results(path, read, {"bbox": 4})
        empty, low = ~(found["bbox"][:, 2:] > 0).all(-1), found["score"] < self.box_threshold
        reasons = {"without extent": empty, f"that score less than {self.box_threshold}": low & ~empty}
        image_ids, boxes, scores = (found[key][~empty & ~low] for key in ("image_id", "bbox", "score"))
        count, joints = len(boxes), len(self.skeleton)
        places = pd.Series(image_ids).groupby(image_ids).cumcount()
        return self._in_boxes(
            split,
            image_table(read),
            name=f"{self.name} {split}, detected boxes",
            ids=np.array([f"{image}/{n}" for image, n in zip(image_ids, places, strict=True)], np.str_),
            image_ids=image_ids,
            joints=np.zeros((count, joints, 2), np.float32),
            visibility=np.full((count, joints), UNLABELLED, np.int8),
            center=boxes[:, :2] + boxes[:, 2:] / 2,
            size=boxes[:, 2:],
            reference_length=np.full(count, np.nan, np.float32),
            box_scores=scores.astype(np.float32),
            left_out=left_out | counted(reasons),
            file=str(path),
        )

    def _in_boxes(self, split: str, table: Mapping[int, Any], size: np.ndarray, **columns: Any) -> PersonsInBoxes:
        """Persons in images of the annotation file's table; boxes of (width, height) `size` are padded here."""
        used, image_index = np.unique(columns["image_ids"], return_inverse=True)
        names = [table[image_id][0] for image_id in used.tolist()]
        columns["center"] = columns["center"].astype(np.float32)
        return PersonsInBoxes(
            skeleton=self.skeleton,
            images=self.image_files(split, self.files[split]["images"], names),
            image_index=image_index.astype(np.int64),
            box_size=(size * self.padding).astype(np.float32),
            **columns,
        )

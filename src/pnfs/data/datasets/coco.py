"""COCO keypoints 2017 (Lin et al., ECCV 2014), and any dataset in its format, of persons or not."""

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int64
from torchvision.ops import box_iou

from pnfs import body
from pnfs.body import Skeleton, skeleton_by_name
from pnfs.data.coco_format import Annotations, Wanted, read_annotations
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco_boxes import (
    PersonsInBoxes,
    detected_persons,
    labelled_persons,
    write_results,
)
from pnfs.data.geometry import fit_box
from pnfs.data.images import DataError
from pnfs.data.persons import Persons
from pnfs.data.predictions import Matches, Predictions, matched_by_image
from pnfs.errors import PnfsError
from pnfs.evaluation.average_precision import OKSAveragePrecision
from pnfs.evaluation.coco_eval import DetectedPoses, evaluate_by_visibility, similarity_sigmas

Boxes = Literal["ground_truth", "detected"]
Suppression = Literal["oks", "soft", "none"]
MATCHING_OVERLAP = 0.5  # Intersection over union from which a detected box is a labelled person's.

_KEYPOINTS, _DETECTIONS = "annotations/person_keypoints_", "person_detection_results/COCO_"
FILES: Mapping[str, Mapping[str, str]] = {
    "train": {"annotations": f"{_KEYPOINTS}train2017.json", "images": "images/train2017"},
    "val": {
        "annotations": f"{_KEYPOINTS}val2017.json",
        "images": "images/val2017",
        "detections": f"{_DETECTIONS}val2017_detections_AP_H_56_person.json",
    },
    "test": {
        "annotations": "annotations/image_info_test-dev2017.json",
        "images": "images/test2017",
        "detections": f"{_DETECTIONS}test-dev2017_detections_AP_H_609_person.json",
    },
}
"""COCO's own layout below root."""


class COCO(PoseDataset):
    """Keypoints in COCO's format with HRNet's choice of persons, in ground-truth or detected boxes.

    Left out, and counted in `Persons.left_out` (HRNet, `lib/dataset/coco.py`): other categories, crowds, persons
    without labelled joints, and persons whose box, once clipped to the image, is empty. An area that is missing or
    0, with which HRNet leaves a person out, is taken from the box.

    The person box has the centre of the clipped box and its (width, height) × `padding`. `reference_length` is the
    square root of the annotated (segment) area in px, the scale s of OKS. With `boxes="detected"` the persons of
    all splits but "train" are a detector's boxes as they stand, without labels. COCO's split "test" is test-dev,
    without public labels: its scores are nan.

    Args (see conf/dataset/coco.yaml for the others):
        joint_threshold: A person's score is the box's times the mean of the joints that score more.
        nms: Several predictions of one person: "oks" drops, "soft" ranks lower and keeps 20 an image,
            "none" keeps all; of one person are two with more OKS than `nms_threshold`.
        input_size: (height, width) of the network's crops, to whose aspect HRNet's code fits a box before it takes
            its area for OKS-NMS; None: 4:3, as the published crops have.
        skeleton: Joints of the category: a skeleton, its name, or its description (see `pnfs.body.Skeleton`).
        files: Split -> "annotations", "images" and perhaps "detections" below `root`; None: COCO's own.
    """

    name = "COCO"
    splits = ("train", "val", "test")
    guide = """\
Expected layout below root:
  images/train2017/   images/val2017/   000000000139.jpg, …
  annotations/person_keypoints_train2017.json   annotations/person_keypoints_val2017.json
Images ("2017 Train/Val images") and annotations ("2017 Train/Val annotations"):
https://cocodataset.org/#download
Split "test" is test-dev: images/test2017/ and annotations/image_info_test-dev2017.json.
Then set root to that folder."""

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
        self.files = FILES if files is None else files
        self.required = ("images",)
        if files is not None:
            self.splits, self.required = tuple(files), ()
            wrong = [s for s in files if not {"annotations", "images"} <= files[s].keys()]
            if wrong or not {"train", "val"} <= files.keys():
                raise DataError("files needs train and val, and annotations and images for each")
            listed = "\n".join(f"  {split}: {', '.join(files[split].values())}" for split in files)
            self.guide = f"Expected below root:\n{listed}"
        self.required += tuple(self.files[split]["annotations"] for split in ("train", "val"))
        self.skeleton = skeleton_by_name(skeleton)
        if self.skeleton.name != body.COCO.name:
            self.name = f"COCO ({self.skeleton.name})"
        super().__init__(root, padding, check_images)
        self.min_labelled, self.category = min_labelled, category
        self.boxes: Boxes = boxes
        self.detections = None if detections is None else Path(detections).expanduser()
        self.box_threshold, self.joint_threshold = box_threshold, joint_threshold
        self.nms, self.nms_threshold = nms, nms_threshold
        # Published crops (192×256, 288×384) are 3 to 4.
        self.aspect = 0.75 if input_size is None else input_size[1] / input_size[0]
        self.sigmas = similarity_sigmas(self.skeleton)
        self._annotations: dict[str, Annotations] = {}
        self._boxes: dict[tuple[str, str], PersonsInBoxes] = {}

    def load(self, split: str) -> Persons:
        """Ids are COCO's annotation ids, or "<image id>/<n>" for the image's n-th detected box."""
        return self._loaded(split).persons

    def metric(self, split: str) -> OKSAveragePrecision:
        """COCO's keypoint average precision; `sample_index` are rows of `persons(split)`."""
        loaded = self._loaded(split)
        return OKSAveragePrecision(
            truth=self.annotations(split),
            image_ids=loaded.image_ids,
            areas=fit_box(loaded.persons.box_size, self.aspect).prod(axis=-1),
            box_scores=loaded.scores,
            sigmas=self.sigmas,
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
        """Labelled persons with the detected boxes that overlap them most, each used once."""
        if self._boxes_of(split) == "ground_truth" or self._unlabelled(split):
            return super().matches(split, predictions)
        labelled, found = self.labelled(split), self._loaded(split)
        ours, theirs = labelled.corners(), found.corners()
        rows = matched_by_image(
            labelled.image_ids,
            found.image_ids,
            lambda m, n: box_iou(ours[m], theirs[n]).numpy(),
            MATCHING_OVERLAP,
        )
        return Matches(labelled.persons, predictions, rows)

    def extra_scores(self, split: str, predictions: Predictions) -> Mapping[str, float]:
        """AP and AR over visible joints alone and over occluded joints alone, fractions."""
        if self._unlabelled(split):
            return {}
        poses, _ = self._poses(split, predictions)
        return evaluate_by_visibility(poses, self.annotations(split), self.sigmas)

    def write_predictions(self, split: str, predictions: Predictions, folder: Path, name: str) -> Path:
        """Writes the results file that COCO's server takes, duplicates left out.

        Raises PnfsError if the method's name cannot stand in the file's.
        """
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise PnfsError(
                f"the method's name {name!r} goes into the results file's name: letters, digits, "
                "dots, dashes and underscores only"
            )
        test_set = {"val": "val2017", "test": "test-dev2017"}.get(split, split)
        path = folder / f"person_keypoints_{test_set}_{name}_results.json"
        poses, rows = self._poses(split, predictions)
        return write_results(path, self.annotations(split), poses, predictions.scores[rows])

    def labels_digest(self, split: str) -> str:
        """A digest of the files that `metric` reads crowds, areas, images without persons and detected boxes from;
        nothing for "train", which runs are not scored on."""
        files = [] if split == "train" else [self.root / self.files[split]["annotations"]]
        if files and self.boxes == "detected":
            files.append(self._detections_path(split))
        return "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)

    def box_scores(self, split: str) -> Float32[np.ndarray, " N"] | None:
        """The detector's score of each person's box; None for ground-truth boxes."""
        return self._loaded(split).scores if self._boxes_of(split) == "detected" else None

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
        path = self.root / file
        read = read_annotations(path, self.skeleton, category=self.category, labelled=labelled)
        if split != "train":  # Too large to be kept for nothing.
            self._annotations[split] = read
        return read

    def labelled(self, split: str) -> PersonsInBoxes:
        """The persons in ground-truth boxes."""
        return self._loaded(split, "ground_truth")

    def _poses(self, split: str, predictions: Predictions) -> tuple[DetectedPoses, Int64[np.ndarray, " M"]]:
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

    def _loaded(self, split: str, boxes: Boxes | None = None) -> PersonsInBoxes:
        self.require_split(split)
        boxes = boxes or self._boxes_of(split)
        if (split, boxes) not in self._boxes:
            if boxes == "detected":
                found = detected_persons(self, split, self._detections_path(split))
            elif self._unlabelled(split):
                raise DataError(
                    f"{self.name}: split {split!r} has no public labels, so no ground-truth boxes: "
                    "choose boxes=detected"
                )
            else:
                found = labelled_persons(self, split)
            self._boxes[split, boxes] = found
        return self._boxes[split, boxes]

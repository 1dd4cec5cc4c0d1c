"""COCO's average precision of keypoints as a metric."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64, Integer

from pnfs.errors import PnfsError
from pnfs.evaluation import coco_eval
from pnfs.evaluation.coco_eval import DetectedPoses, GroundTruth
from pnfs.evaluation.person_metric import Columns, Criterion, PersonMetric


class OKSAveragePrecision(PersonMetric):
    """COCO's average precision and recall of keypoints; see `evaluate_detections`.

    As in HRNet's `COCODataset.evaluate`, a person's score is the box's score times the mean score of the joints
    that score above `joint_threshold`, and OKS-NMS drops duplicates.

    `truth` are all persons of the images. Each sample has COCO's image id, the area of its person's box in square
    image pixels (for OKS-NMS), and the box's score, 1 for boxes from the ground truth. `sigmas` are the skeleton's
    per-joint standard deviations; for `nms_threshold` (None keeps all) and `soft_nms` see `oks_nms`.

    Raises:
        PnfsError: Columns of different lengths, or an image that the ground truth lacks.
    """

    def __init__(
        self,
        *,
        truth: GroundTruth,
        image_ids: Integer[np.ndarray, " N"],
        areas: Float[np.ndarray, " N"],
        box_scores: Float[np.ndarray, " N"],
        sigmas: Sequence[float] | Float[np.ndarray, " K"] = coco_eval.COCO_SIGMAS,
        joint_threshold: float = 0.2,
        nms_threshold: float | None = 0.9,
        soft_nms: bool = False,
    ) -> None:
        super().__init__(len(sigmas))
        if not len(image_ids) == len(areas) == len(box_scores):
            raise PnfsError("image_ids, areas and box_scores: each sample needs one of each")
        truth.require_images(image_ids)
        self.truth = truth
        self.image_ids, self.areas, self.box_scores = image_ids, areas, box_scores
        self.sigmas = np.asarray(sigmas, np.float64)
        self.joint_threshold, self.nms_threshold = joint_threshold, nms_threshold
        self.soft_nms = soft_nms

    def score(self, persons: Columns) -> dict[str, float]:
        poses, _ = self.poses(persons["predicted"], persons["scores"], persons["sample_index"])
        return coco_eval.evaluate_detections(poses, self.truth, self.sigmas)

    def criterion(self) -> Criterion:
        """A similarity exp(-e²/(8σ²)) of at least 1/2, as AP .5 asks on average; e: distance / √area."""
        return Criterion(
            label="similarity at least 0.5",
            reference="√area",
            thresholds=self.sigmas * np.sqrt(8 * np.log(2)),
        )

    def poses(
        self,
        joints: Float[np.ndarray, "N K 2"],
        joint_scores: Float[np.ndarray, "N K"],
        samples: Int64[np.ndarray, " N"],
    ) -> tuple[DetectedPoses, Int64[np.ndarray, " M"]]:
        """The predictions that no better one suppresses, with their scores, and which of the N they are; in image
        pixels. `samples` says which sample each prediction is."""
        joints = joints.astype(np.float64)
        means = coco_eval.mean_joint_score(joint_scores.astype(np.float64), self.joint_threshold)
        scores, image_ids = self.box_scores[samples] * means, self.image_ids[samples]
        areas, rows = self.areas[samples], np.argsort(image_ids, kind="stable")
        groups = np.split(rows, np.flatnonzero(np.diff(image_ids[rows])) + 1)
        for n, group in enumerate(groups):
            if self.nms_threshold is not None and len(group) > 1:
                of_image = joints[group], scores[group], areas[group], self.nms_threshold
                groups[n] = group[coco_eval.oks_nms(*of_image, self.sigmas, soft=self.soft_nms)]
        rows = np.concatenate(groups)
        return DetectedPoses(image_ids[rows], joints[rows], scores[rows]), rows

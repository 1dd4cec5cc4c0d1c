"""COCO's average precision of keypoints as a metric."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Integer

from pnfs.evaluation.coco_eval import GroundTruth, evaluate_detections
from pnfs.evaluation.nms import oks_nms, soft_oks_nms
from pnfs.evaluation.oks import COCO_SIGMAS, mean_joint_score
from pnfs.evaluation.person_metric import Columns, Criterion, PersonMetric


class OKSAveragePrecision(PersonMetric):
    """COCO's average precision and recall of keypoints.

    As in HRNet's `COCODataset.evaluate`, a person's score is the box's score times the mean score
    of the joints that score above `joint_threshold`, and OKS-NMS drops duplicates. All images
    of the ground truth count, also those without a prediction. The ten results are fractions under
    the names in `pnfs.evaluation.coco_eval.STATISTICS`; all are nan without input.

    Args:
        truth: All persons of the images.
        image_ids: COCO's image id of each sample.
        areas: Area of each sample's person box, in square image pixels (for OKS-NMS).
        box_scores: Score of each sample's person box; 1 for boxes from the ground truth.
        sigmas: The skeleton's per-joint standard deviations.
        joint_threshold: Joints must score more to count in the person's score.
        nms_threshold: OKS above which the lower of two persons is a duplicate; None keeps all.
        soft_nms: Lower the ranks of duplicates instead (at most 20 persons an image stay).
        **kwargs: See `torchmetrics.Metric`.

    Raises:
        ValueError: Columns of different lengths, or an image that the ground truth lacks.
    """

    def __init__(
        self,
        *,
        truth: GroundTruth,
        image_ids: Integer[np.ndarray, " N"],
        areas: Float[np.ndarray, " N"],
        box_scores: Float[np.ndarray, " N"],
        sigmas: Sequence[float] | Float[np.ndarray, " K"] = COCO_SIGMAS,
        joint_threshold: float = 0.2,
        nms_threshold: float | None = 0.9,
        soft_nms: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(len(sigmas), **kwargs)
        if not len(image_ids) == len(areas) == len(box_scores):
            raise ValueError(
                f"{len(image_ids)} image ids, {len(areas)} areas and {len(box_scores)} box scores: "
                "there must be one of each for every sample"
            )
        unknown = np.setdiff1d(image_ids, [image["id"] for image in truth.images])
        if unknown.size:
            raise ValueError(f"{truth.where} has no image {unknown[0]}, which a sample refers to")
        self.truth, self.image_ids, self.areas, self.box_scores = (
            truth,
            image_ids,
            areas,
            box_scores,
        )
        self.sigmas = np.asarray(sigmas, np.float64)
        self.joint_threshold = joint_threshold
        self.nms_threshold = nms_threshold
        self.soft_nms = soft_nms

    def score(self, persons: Columns) -> dict[str, float]:
        keypoints = np.dstack([persons["predicted"], persons["scores"]])
        detections = self.detections(keypoints, persons["sample_index"])
        return evaluate_detections(detections, self.truth, self.sigmas)

    def criterion(self) -> Criterion:
        """A similarity of at least 1/2, the limit that AP .5 sets for joints on average.

        A joint's similarity is exp(-e²/(8σ²)), with e its distance over the square root of the
        person's area.
        """
        return Criterion(
            label="similarity at least 0.5",
            reference="√area",
            thresholds=self.sigmas * np.sqrt(8 * np.log(2)),
            mean_rows=tuple(range(self.joint_count)),
        )

    def detections(
        self, keypoints: Float[np.ndarray, "N K 3"], rows: Int64[np.ndarray, " N"]
    ) -> list[dict[str, Any]]:
        """Predictions in COCO's result format, with the persons' scores and without duplicates.

        Args:
            keypoints: x, y in image pixels and the joint's score.
            rows: Which sample each is.
        """
        keypoints = keypoints.astype(np.float64)
        scores = self.box_scores[rows] * mean_joint_score(keypoints[..., 2], self.joint_threshold)
        image_ids = self.image_ids[rows]
        by_image = np.argsort(image_ids, kind="stable")
        starts = np.flatnonzero(np.diff(image_ids[by_image])) + 1
        detections = []
        for members in np.split(by_image, starts):
            for row in self._suppress(keypoints, scores, self.areas[rows], members):
                detections.append(
                    {
                        "image_id": image_ids[row].item(),
                        "category_id": self.truth.category,
                        "keypoints": keypoints[row].ravel().tolist(),
                        "score": float(scores[row]),
                    }
                )
        return detections

    def _suppress(
        self, keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, members: np.ndarray
    ) -> np.ndarray:
        if self.nms_threshold is None:
            return members
        suppress = soft_oks_nms if self.soft_nms else oks_nms
        kept = suppress(
            keypoints[members], scores[members], areas[members], self.nms_threshold, self.sigmas
        )
        return members[kept]

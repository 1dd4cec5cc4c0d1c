"""COCO's average precision of keypoints over arrays: similarity (OKS), OKS-NMS (HRNet), scores, the metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from pnfs.body import COCO, Skeleton
from pnfs.errors import PnfsError
from pnfs.evaluation.person_metric import Columns, Criterion, PersonMetric

COCO_SIGMAS = np.array(COCO.oks_sigmas)
"""COCO's standard deviation of each joint's labels, as a share of the person's scale."""
MAX_DETECTIONS = 20  # Persons per image that COCO's evaluation looks at.
STATISTICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)",
              "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")  # fmt: skip
"""COCO's ten keypoint scores, in the order of `COCOeval.stats`."""
_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
# All, medium and large persons, square pixels.
_AREAS = np.array([[0, 1e5**2], [32**2, 96**2], [96**2, 1e5**2]])
_PAIRS = 1 << 14  # Pairs of an image and a person that are compared at once; bounds the memory.


@dataclass(frozen=True)
class GroundTruth:
    """The N labelled persons of an annotation file, joints in the skeleton's order, lengths in pixels."""

    where: str  # File name for messages.
    images: list[dict[str, Any]]  # Records with an id.
    category: int  # Id of the category "person" in this file.
    image_ids: Int64[np.ndarray, " N"]
    joints: Float[np.ndarray, "N K 2"]  # 0 where unlabelled.
    visibility: Float[np.ndarray, "N K"]  # Above 0 where labelled.
    boxes: Float[np.ndarray, "N 4"]  # x, y, width, height.
    area: Float[np.ndarray, " N"]
    crowd: Bool[np.ndarray, " N"]
    usable: Bool[np.ndarray, " N"]  # Neither crowd nor without labels; predictions of others are ignored.

    def require_images(self, image_ids: Int64[np.ndarray, " M"]) -> None:
        """Raises PnfsError if one is not among the images."""
        for unknown in np.setdiff1d(image_ids, [image["id"] for image in self.images]):
            text = f"has no image {unknown}, which a person is predicted in"
            raise PnfsError(f"{self.where} {text}: predictions are of another dataset")


class DetectedPoses(NamedTuple):
    """M predicted persons; x, y in image pixels."""

    image_ids: Int64[np.ndarray, " M"]
    joints: Float[np.ndarray, "M K 2"]
    scores: Float[np.ndarray, " M"]


def similarity_sigmas(skeleton: Skeleton) -> Float[np.ndarray, " K"]:
    """The skeleton's per-joint standard deviations; without, joints have COCO's, or COCO's mean."""
    if skeleton.oks_sigmas is not None:
        return np.array(skeleton.oks_sigmas)
    known = dict(zip(COCO.joints, COCO_SIGMAS.tolist(), strict=True))
    return np.array([known.get(joint, COCO_SIGMAS.mean()) for joint in skeleton.joints])


def oks(
    squared: Float[np.ndarray, "*N K"],
    area: Float[np.ndarray, "*N"],
    sigmas: Float[np.ndarray, " K"] = COCO_SIGMAS,
    counted: Bool[np.ndarray, "*N K"] | None = None,
) -> Float[np.ndarray, "*N"]:
    """Mean over the `counted` joints (None: all) of exp(-d² / (8 σ² area)); without any, 0.

    `squared` distances d² of the joints and the person's area are in square pixels.
    """
    scale = np.asarray(area)[..., None] + np.spacing(1)
    alike = np.exp(-squared / (2 * sigmas) ** 2 / scale / 2)
    if counted is None:
        return alike.mean(-1)
    return (alike * counted).sum(-1) / np.maximum(counted.sum(-1), 1)


def oks_nms(
    joints: Float[np.ndarray, "M K 2"],
    scores: Float[np.ndarray, " M"],
    areas: Float[np.ndarray, " M"],
    threshold: float,
    sigmas: Float[np.ndarray, " K"] = COCO_SIGMAS,
    *,
    soft: bool = False,
) -> Int64[np.ndarray, " N"]:
    """Rows that stay, best first, when predictions too similar to a better one are dropped (HRNet's `oks_nms`).

    Two rows that stay have an OKS of at most `threshold`, over all joints, with the mean of both areas (pixels).
    With `soft` none is dropped: after each pick the scores of the rest are multiplied by exp(-OKS² / threshold),
    until MAX_DETECTIONS are picked (HRNet's `soft_oks_nms`).
    """
    order, kept = np.argsort(scores)[::-1], []
    remaining = scores[order]
    while order.size and not (soft and len(kept) == MAX_DETECTIONS):
        best, rest = order[0], order[1:]
        kept.append(best)
        squared = ((joints[rest] - joints[best]) ** 2).sum(-1)
        similarity = oks(squared, (areas[best] + areas[rest]) / 2, sigmas)
        if soft:
            remaining = remaining[1:] * np.exp(-(similarity**2) / threshold)
            resorted = np.argsort(remaining)[::-1]
            order, remaining = rest[resorted], remaining[resorted]
        else:
            order = rest[similarity <= threshold]
    return np.array(kept, np.int64)


def mean_joint_score(scores: Float[np.ndarray, "N K"], threshold: float) -> Float[np.ndarray, " N"]:
    """Mean of a person's joint scores above the threshold, 0 where there is none (HRNet's rescoring)."""
    counts = scores > threshold
    return (scores * counts).sum(-1) / np.maximum(counts.sum(-1), 1)


def evaluate_detections(
    detections: DetectedPoses, truth: GroundTruth, sigmas: Float[np.ndarray, " K"] = COCO_SIGMAS
) -> dict[str, float]:
    """COCO's ten keypoint scores, as pycocotools computes them: fractions, nan of no detection or no person.

    Of detections with equal scores in an image the first counts as better; a joint that is not finite makes a
    person similar to nobody. `truth` holds all persons; PnfsError where it lacks an image.
    """
    truth.require_images(detections.image_ids)
    # A test set's annotations are not public.
    if not len(detections.scores) or not len(truth.area):
        return dict.fromkeys(STATISTICS, math.nan)
    # The best of each image, image by image, best first.
    order = np.lexsort((-detections.scores, detections.image_ids))
    image_ids = detections.image_ids[order]
    order = order[np.arange(len(order)) - np.searchsorted(image_ids, image_ids) < MAX_DETECTIONS]
    found = DetectedPoses(*(column[order] for column in detections))
    matched, ignored = _match(found, truth, sigmas)
    order = np.argsort(-found.scores, kind="stable")
    precision, recall = np.full((2, len(_AREAS), len(_THRESHOLDS)), np.nan)
    for row, of_size in enumerate(~_of_another_size(truth.area) & truth.usable):
        if of_size.any():
            hits, counts = matched[row][:, order], ~ignored[row][:, order]
            precision[row], recall[row] = _precision_and_recall(hits, counts, of_size.sum())
    rows = [(0, slice(None)), (0, 0), (0, 5), (1, slice(None)), (2, slice(None))]
    values = [float(np.mean(table[row])) for table in (precision, recall) for row in rows]
    return dict(zip(STATISTICS, values, strict=True))


def _of_another_size(area: Float[np.ndarray, " N"]) -> Bool[np.ndarray, "A N"]:
    return (area < _AREAS[:, :1]) | (area > _AREAS[:, 1:])


def _match(
    found: DetectedPoses, truth: GroundTruth, sigmas: Float[np.ndarray, " K"]
) -> tuple[Bool[np.ndarray, "A T M"], Bool[np.ndarray, "A T M"]]:
    """Detections that match a person, and those that do not count, by size and threshold."""
    matched = np.zeros((len(_AREAS), len(_THRESHOLDS), len(found.scores)), bool)
    ignored = np.zeros_like(matched)
    ignored_persons = _of_another_size(truth.area) | ~truth.usable
    thresholds = np.minimum(_THRESHOLDS, 1 - 1e-10)[:, None, None]
    size, level, _ = np.ogrid[: len(_AREAS), : len(_THRESHOLDS), :1]
    by_image = np.argsort(truth.image_ids, kind="stable")
    images, first, number = np.unique(found.image_ids, return_index=True, return_counts=True)
    labelled = truth.image_ids[by_image]
    start, end = (np.searchsorted(labelled, images, side) for side in ("left", "right"))
    # Images of like numbers of persons stand together, so that little is filled up.
    waiting = np.argsort(start - end, kind="stable")[: np.count_nonzero(end - start)]
    while waiting.size:
        places = np.arange(int((end - start)[waiting[0]]))
        group, waiting = np.split(waiting, [max(1, _PAIRS // len(places))])
        rows = np.minimum(start[group][:, None] + places, len(by_image) - 1)
        persons, there = by_image[rows], places < (end - start)[group][:, None]
        crowd, unwanted = truth.crowd[persons], ignored_persons[:, persons]
        taken = np.zeros((len(_AREAS), len(_THRESHOLDS), *persons.shape), bool)
        # Images side by side, the best detection of each, then the second best, ...
        for place in range(number[group].max()):
            rows = np.flatnonzero(number[group] > place)
            detection = first[group][rows] + place
            similar = _similarity(found.joints[detection], truth, persons[rows], sigmas)
            free = (similar >= thresholds) & there[rows] & (~taken[:, :, rows] | crowd[rows])
            # Persons who count come before those who are ignored, however similar.
            counting = free & ~unwanted[:, None, rows]
            among = np.where(counting.any(-1, keepdims=True), counting, free)
            # pycocotools takes the last of equals.
            pick = persons.shape[1] - 1 - np.where(among, similar, -1)[..., ::-1].argmax(-1)
            hit = np.asarray(among.any(-1))
            taken[size, level, rows, pick] |= hit
            matched[:, :, detection] = hit
            ignored[:, :, detection] = hit & unwanted[size, rows, pick]
    extent = np.ptp(found.joints, axis=1).prod(-1)
    return matched, ignored | (~matched & _of_another_size(extent)[:, None])


def _similarity(
    joints: Float[np.ndarray, "I K 2"],
    truth: GroundTruth,
    persons: Int64[np.ndarray, "I G"],
    sigmas: Float[np.ndarray, " K"],
) -> Float[np.ndarray, "I G"]:
    """OKS of each image's detection with its labelled persons; of those without labels, such as crowds, distances
    are those from twice their box."""
    predicted, boxes = joints[:, None].astype(np.float64), truth.boxes[persons][:, :, None]
    labelled = truth.visibility[persons] > 0
    unlabelled = np.asarray(~labelled.any(-1, keepdims=True))
    corner, size = np.split(boxes, 2, axis=-1)
    outside = np.abs(predicted - predicted.clip(corner - size, corner + 2 * size))
    offset = np.where(unlabelled[..., None], outside, predicted - truth.joints[persons])
    similar = oks((offset**2).sum(-1), truth.area[persons], sigmas, labelled | unlabelled)
    return np.nan_to_num(similar)


def _precision_and_recall(
    hits: Bool[np.ndarray, "T M"], counts: Bool[np.ndarray, "T M"], persons: int
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """Mean precision over 101 recalls, and the highest recall, at each threshold, of detections, best first."""
    right = np.cumsum(hits & counts, -1)
    precision = right / (np.cumsum(counts, -1) + np.spacing(1))
    # The highest precision at this recall or a higher one.
    precision = np.maximum.accumulate(precision[:, ::-1], -1)[:, ::-1]
    recall = right / persons
    places = np.array([np.searchsorted(row, _RECALLS) for row in recall])
    padded = np.pad(precision, ((0, 0), (0, 1)))
    return np.take_along_axis(padded, places, -1).mean(-1), recall[:, -1]


class OKSAveragePrecision(PersonMetric):
    """COCO's average precision and recall of keypoints; see `evaluate_detections`.

    As in HRNet's `COCODataset.evaluate`, a person's score is the box's score times the mean score of the joints
    that score above `joint_threshold`, and OKS-NMS drops duplicates.

    `truth` are all persons of the images. Each sample has COCO's image id, the area of its person's box in square
    image pixels (for OKS-NMS), and the box's score, 1 for boxes from the ground truth. PnfsError if one is
    missing. For `nms_threshold` (None keeps all) and `soft_nms` see `oks_nms`.
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
    ) -> None:
        super().__init__(len(sigmas))
        if not len(image_ids) == len(areas) == len(box_scores):
            raise PnfsError("image_ids, areas and box_scores: each sample needs one of each")
        truth.require_images(image_ids)
        self.truth, self.sigmas = truth, np.asarray(sigmas, np.float64)
        self.image_ids, self.areas, self.box_scores = image_ids, areas, box_scores
        self.joint_threshold, self.nms_threshold, self.soft_nms = joint_threshold, nms_threshold, soft_nms

    def score(self, persons: Columns) -> dict[str, float]:
        poses, _ = self.poses(persons["predicted"], persons["scores"], persons["sample_index"])
        return evaluate_detections(poses, self.truth, self.sigmas)

    def criterion(self) -> Criterion:
        """A similarity exp(-e²/(8σ²)) of at least 1/2, as AP .5 asks on average; e: distance / √area."""
        return Criterion("similarity at least 0.5", "√area", self.sigmas * np.sqrt(8 * np.log(2)))

    def poses(
        self,
        joints: Float[np.ndarray, "N K 2"],
        joint_scores: Float[np.ndarray, "N K"],
        samples: Int64[np.ndarray, " N"],
    ) -> tuple[DetectedPoses, Int64[np.ndarray, " M"]]:
        """The predictions that no better one suppresses, with their scores, and which of the N they are; in image
        pixels. `samples` says which sample each prediction is."""
        joints = joints.astype(np.float64)
        means = mean_joint_score(joint_scores.astype(np.float64), self.joint_threshold)
        scores, image_ids = self.box_scores[samples] * means, self.image_ids[samples]
        areas, rows = self.areas[samples], np.argsort(image_ids, kind="stable")
        groups = np.split(rows, np.flatnonzero(np.diff(image_ids[rows])) + 1)
        for n, group in enumerate(groups):
            if self.nms_threshold is not None and len(group) > 1:
                of_image = joints[group], scores[group], areas[group], self.nms_threshold
                groups[n] = group[oks_nms(*of_image, self.sigmas, soft=self.soft_nms)]
        rows = np.concatenate(groups)
        return DetectedPoses(image_ids[rows], joints[rows], scores[rows]), rows

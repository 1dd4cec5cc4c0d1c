"""COCO's average precision and recall of keypoints, as pycocotools computes them, over arrays."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from pnfs.errors import PnfsError
from pnfs.evaluation.oks import COCO_SIGMAS, MAX_DETECTIONS, oks

STATISTICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)",
              "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")  # fmt: skip
"""COCO's ten keypoint scores, in the order of `COCOeval.stats`."""

VISIBILITIES = {"visible": 2, "occluded": 1}
"""Kinds of labelled joints -> COCO's visibility flag."""

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_AREAS = np.array([[0, 1e5**2], [32**2, 96**2], [96**2, 1e5**2]])
"""All, medium and large persons, square pixels."""

_PAIRS = 1 << 14
"""Pairs of an image and a labelled person that are compared at once; bounds the memory."""


@dataclass(frozen=True)
class GroundTruth:
    """The N labelled persons of an annotation file, joints in the skeleton's order."""

    where: str
    """File name for messages."""
    images: list[dict[str, Any]]
    """Records with an id."""
    category: int
    """Id of the category "person" in this file."""
    image_ids: Int64[np.ndarray, " N"]
    joints: Float[np.ndarray, "N K 2"]
    """px, 0 where unlabelled."""
    visibility: Float[np.ndarray, "N K"]
    """Above 0 where labelled."""
    boxes: Float[np.ndarray, "N 4"]
    """x, y, width, height in px."""
    area: Float[np.ndarray, " N"]
    """Square px."""
    crowd: Bool[np.ndarray, " N"]
    usable: Bool[np.ndarray, " N"]
    """Neither crowd nor without a labelled joint; predictions of others are ignored."""

    def require_images(self, image_ids: Int64[np.ndarray, " M"]) -> None:
        """Raises ValueError if one is not among the images."""
        unknown = np.setdiff1d(image_ids, [image["id"] for image in self.images])
        if unknown.size:
            raise PnfsError(
                f"{self.where} has no image {unknown[0]}, which a person is predicted in: predictions and "
                "annotations are of different datasets"
            )


class DetectedPoses(NamedTuple):
    """M predicted persons."""

    image_ids: Int64[np.ndarray, " M"]
    joints: Float[np.ndarray, "M K 2"]
    """x, y in image pixels."""
    scores: Float[np.ndarray, " M"]


def evaluate_detections(
    detections: DetectedPoses,
    truth: GroundTruth,
    sigmas: Float[np.ndarray, " K"] = COCO_SIGMAS,
) -> dict[str, float]:
    """COCO's ten keypoint scores of detections: fractions, nan where there are none, or no person of that size.

    A joint that is not finite makes a person similar to nobody.

    Args:
        detections: In any order; of equal scores in an image the first one counts as better.
        truth: All persons of the images, crowds and images without a prediction among them.
        sigmas: The skeleton's per-joint standard deviations.

    Raises:
        ValueError: An image that the ground truth does not list.
    """
    truth.require_images(detections.image_ids)
    # A test set's annotations are not public.
    if not len(detections.scores) or not len(truth.area):
        return dict.fromkeys(STATISTICS, math.nan)
    found = _best_of_each_image(detections)
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


def evaluate_by_visibility(
    detections: DetectedPoses,
    truth: GroundTruth,
    sigmas: Float[np.ndarray, " K"] = COCO_SIGMAS,
) -> dict[str, float]:
    """`evaluate_detections` over visible joints alone, and over occluded ones: "AP/visible", "AR/occluded", ...

    Labels of the other kind are taken out of the ground truth; persons left without a label are ignored, as COCO's
    evaluation ignores unlabelled persons.
    """
    scores = {}
    for kind, flag in VISIBILITIES.items():
        visibility = np.where(truth.visibility == flag, truth.visibility, 0)
        usable = truth.usable & (visibility > 0).any(-1)
        restricted = replace(truth, visibility=visibility, usable=usable)
        found = evaluate_detections(detections, restricted, sigmas)
        scores |= {f"{name}/{kind}": found[name] for name in ("AP", "AR")}
    return dict(sorted(scores.items()))


def _best_of_each_image(detections: DetectedPoses) -> DetectedPoses:
    """The best MAX_DETECTIONS of each image, image by image, best first."""
    order = np.lexsort((-detections.scores, detections.image_ids))
    image_ids = detections.image_ids[order]
    place = np.arange(len(order)) - np.searchsorted(image_ids, image_ids)
    kept = order[place < MAX_DETECTIONS]
    return DetectedPoses(*(column[kept] for column in detections))


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
    for persons, first, number in _images(found.image_ids, truth.image_ids):
        there, crowd, unwanted = persons >= 0, truth.crowd[persons], ignored_persons[:, persons]
        taken = np.zeros((len(_AREAS), len(_THRESHOLDS), *persons.shape), bool)
        # Images side by side, the best detection of each, then the second best, ...
        for place in range(number.max()):
            rows = np.flatnonzero(number > place)
            detection = first[rows] + place
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


def _images(
    found: Int64[np.ndarray, " M"], labelled: Int64[np.ndarray, " N"]
) -> Iterator[tuple[Int64[np.ndarray, "I G"], Int64[np.ndarray, " I"], Int64[np.ndarray, " I"]]]:
    """Groups of images that have both detections and labels: rows of the labelled persons of each (-1: none), row
    of its first detection, number of its detections."""
    by_image = np.argsort(labelled, kind="stable")
    images, first, number = np.unique(found, return_index=True, return_counts=True)
    start, end = (np.searchsorted(labelled[by_image], images, side) for side in ("left", "right"))
    persons = end - start
    # Images of like numbers of persons stand together, so that little is filled up.
    waiting = np.argsort(-persons, kind="stable")[: np.count_nonzero(persons)]
    while waiting.size:
        most = int(persons[waiting[0]])
        group, waiting = np.split(waiting, [max(1, _PAIRS // most)])
        places = np.arange(most)
        rows = by_image[np.minimum(start[group][:, None] + places, len(by_image) - 1)]
        yield np.where(places < persons[group][:, None], rows, -1), first[group], number[group]


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
    corner, size = boxes[..., :2], boxes[..., 2:]
    lower, upper = corner - size, corner + 2 * size
    outside = np.maximum(lower - predicted, 0) + np.maximum(predicted - upper, 0)
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

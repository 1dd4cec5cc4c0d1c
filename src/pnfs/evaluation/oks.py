"""Object keypoint similarity (OKS): suppression of duplicates and COCO's average precision."""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from pycocotools.coco import COCO as CocoIndex
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from pnfs.body import COCO, Skeleton
from pnfs.data.coco_categories import PERSON
from pnfs.data.coco_format import Annotations, read_annotations
from pnfs.evaluation.pck import first_rows

STATISTICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)",
              "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")  # fmt: skip
"""COCO's ten keypoint scores, in the order of `COCOeval.stats`."""

MAX_DETECTIONS = 20
"""Persons per image that COCO's evaluation looks at."""

PER_VISIBILITY = {"occluded": 1, "visible": 2}
"""COCO's visibility flags of labelled joints."""

_DEFAULT_SIGMAS = np.array(COCO.oks_sigmas)


def similarity_sigmas(skeleton: Skeleton) -> Float[np.ndarray, " K"]:
    """Per-joint standard deviations to compare poses by, where the benchmark may define none.

    Joints that COCO labels have COCO's; the others the mean of COCO's.
    """
    if skeleton.oks_sigmas is not None:
        return np.array(skeleton.oks_sigmas)
    known = dict(zip(COCO.joints, _DEFAULT_SIGMAS.tolist(), strict=True))
    return np.array([known.get(joint, _DEFAULT_SIGMAS.mean()) for joint in skeleton.joints])


def oks(
    keypoints: Float[np.ndarray, "K 2"],
    others: Float[np.ndarray, "M K 2"],
    area: float | np.floating | np.ndarray,
    other_areas: Float[np.ndarray, " M"],
    sigmas: Float[np.ndarray, " K"] = _DEFAULT_SIGMAS,
) -> Float[np.ndarray, " M"]:
    """Similarity in (0, 1] of one prediction to others (HRNet's `oks_iou`).

    Unlike the evaluation's OKS all joints count and the area is the mean of both.

    Args:
        keypoints: x, y in image pixels.
        others: x, y in image pixels.
        area: Area of the person, in square pixels.
        other_areas: Areas of the others.
        sigmas: The skeleton's per-joint standard deviations.
    """
    squared = ((others - keypoints) ** 2).sum(-1)
    scale = (area + other_areas) / 2 + np.spacing(1)
    return np.exp(-squared / (2 * sigmas) ** 2 / scale[:, None] / 2).mean(-1)


def oks_nms(
    keypoints: Float[np.ndarray, "M K D"],
    scores: Float[np.ndarray, " M"],
    areas: Float[np.ndarray, " M"],
    threshold: float,
    sigmas: Float[np.ndarray, " K"] = _DEFAULT_SIGMAS,
) -> Int64[np.ndarray, " N"]:
    """Rows that stay when predictions too similar to a better one are dropped.

    Args:
        keypoints: x, y in image pixels; further columns are not used.
        scores: Of each prediction.
        areas: Of each prediction, in square pixels.
        threshold: The highest OKS that two rows which stay may have.
        sigmas: The skeleton's per-joint standard deviations.

    Returns:
        Rows, best first (the order of HRNet's `oks_nms`).
    """
    points = keypoints[..., :2]
    order = np.argsort(scores)[::-1]
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[oks(points[best], points[rest], areas[best], areas[rest], sigmas) <= threshold]
    return np.array(kept, np.int64)


def soft_oks_nms(
    keypoints: Float[np.ndarray, "M K D"],
    scores: Float[np.ndarray, " M"],
    areas: Float[np.ndarray, " M"],
    threshold: float,
    sigmas: Float[np.ndarray, " K"] = _DEFAULT_SIGMAS,
) -> Int64[np.ndarray, " N"]:
    """Rows by scores that sink with the similarity to better ones (HRNet's `soft_oks_nms`).

    After each pick the scores of the rest are multiplied by exp(-OKS² / threshold).

    Args:
        keypoints: x, y in image pixels; further columns are not used.
        scores: Of each prediction.
        areas: Of each prediction, in square pixels.
        threshold: How fast scores sink; higher is slower.
        sigmas: The skeleton's per-joint standard deviations.

    Returns:
        At most 20 rows, in the order of the picks.
    """
    points = keypoints[..., :2]
    order = np.argsort(scores)[::-1]
    remaining = scores[order]
    kept = []
    while order.size and len(kept) < MAX_DETECTIONS:
        best, rest = order[0], order[1:]
        kept.append(best)
        similarity = oks(points[best], points[rest], areas[best], areas[rest], sigmas)
        remaining = remaining[1:] * np.exp(-(similarity**2) / threshold)
        resorted = np.argsort(remaining)[::-1]
        order, remaining = rest[resorted], remaining[resorted]
    return np.array(kept, np.int64)


def evaluate_detections(
    detections: Sequence[Mapping[str, Any]],
    ground_truth: Annotations | Mapping[str, Any] | Path | str,
    sigmas: Sequence[float] | Float[np.ndarray, " K"] = _DEFAULT_SIGMAS,
) -> dict[str, float]:
    """COCO's ten keypoint scores of detections, by pycocotools.

    Persons alone are scored: the annotations' category "person", whatever its id. Detections of
    other categories are left out.

    Args:
        detections: In COCO's result format: image_id, category_id, keypoints (3K numbers in the
            order of `pnfs.body.COCO`), score.
        ground_truth: Annotations in COCO's format, or the path of a JSON file that holds them; what
            they must hold: `pnfs.data.coco_format.read_annotations`.
        sigmas: The skeleton's per-joint standard deviations.

    Returns:
        Fractions under the names in `STATISTICS`; nan where there is nothing to score: no
        detections, or no person of that size.

    Raises:
        ValueError: Annotations or detections that are not in the format; the message names the
            file and the record.
    """
    truth = _read(ground_truth)
    return _evaluate(detections, truth, _index(truth), sigmas)


def evaluate_by_visibility(
    detections: Sequence[Mapping[str, Any]],
    ground_truth: Annotations | Mapping[str, Any] | Path | str,
    sigmas: Sequence[float] | Float[np.ndarray, " K"] = _DEFAULT_SIGMAS,
) -> dict[str, float]:
    """AP and AR over visible joints alone, and over occluded joints alone.

    Labels of the other kind are taken out of the ground truth; persons left without a label are
    ignored, as COCO's evaluation ignores unlabelled persons.

    Args:
        detections: See `evaluate_detections`.
        ground_truth: See `evaluate_detections`.
        sigmas: See `evaluate_detections`.

    Returns:
        "AP/visible", "AP/occluded", "AR/visible", "AR/occluded", fractions; nan where no joint is
        labelled so.

    Raises:
        ValueError: See `evaluate_detections`.
    """
    truth = _read(ground_truth)
    scores = {}
    for kind, flag in PER_VISIBILITY.items():
        restricted = replace(truth, records=[_only(record, flag) for record in truth.records])
        found = evaluate_detections(detections, restricted, sigmas)
        scores |= {f"{name}/{kind}": found[name] for name in ("AP", "AR")}
    return dict(sorted(scores.items()))


def _only(annotation: Mapping[str, Any], flag: int) -> dict[str, Any]:
    """The annotation with the labels of joints whose visibility is `flag`."""
    keypoints = np.array(annotation["keypoints"], np.float64).reshape(-1, 3)
    keypoints[keypoints[:, 2] != flag] = 0
    # Some files state 0 beside labels: such persons stay ignored.
    ignored = annotation["num_keypoints"] == 0
    return {
        **annotation,
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": 0 if ignored else int((keypoints[:, 2] > 0).sum()),
    }


class OKSAveragePrecision(Metric):
    """COCO's average precision and recall of keypoints.

    As in HRNet's `COCODataset.evaluate`, a person's score is the box's score times the mean score
    of the joints that score above `joint_threshold`, and OKS-NMS drops duplicates. All images
    of the ground truth count, also those without a prediction. The ten results are fractions under
    the names in `STATISTICS`; all are nan without input.

    Args:
        ground_truth: Annotations in COCO's format, or the path of a JSON file that holds them.
        image_ids: COCO's image id of each sample.
        areas: Area of each sample's person box, in square image pixels (for OKS-NMS).
        box_scores: Score of each sample's person box; 1 for boxes from the ground truth.
        sigmas: The skeleton's per-joint standard deviations.
        joint_threshold: Joints must score more to count in the person's score.
        nms_threshold: OKS above which the lower of two persons is a duplicate; None keeps all.
        soft_nms: Lower the ranks of duplicates instead (at most 20 persons an image stay).
        **kwargs: See `torchmetrics.Metric`.

    Raises:
        ValueError: Columns of different lengths, an image that the ground truth lacks, or
            annotations that are not in the format.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    sample_index: list[Tensor]
    keypoints: list[Tensor]

    def __init__(
        self,
        *,
        ground_truth: Annotations | Mapping[str, Any] | Path | str,
        image_ids: Integer[np.ndarray, " N"],
        areas: Float[np.ndarray, " N"],
        box_scores: Float[np.ndarray, " N"],
        sigmas: Sequence[float] | Float[np.ndarray, " K"] = _DEFAULT_SIGMAS,
        joint_threshold: float = 0.2,
        nms_threshold: float | None = 0.9,
        soft_nms: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_ids, self.areas, self.box_scores = map(
            np.asarray, (image_ids, areas, box_scores)
        )
        if not len(self.image_ids) == len(self.areas) == len(self.box_scores):
            raise ValueError(
                f"{len(self.image_ids)} image ids, {len(self.areas)} areas and "
                f"{len(self.box_scores)} box scores: there must be one of each for every sample"
            )
        self.sigmas = np.asarray(sigmas, np.float64)
        self.annotations = _read(ground_truth)
        self.ground_truth = _index(self.annotations)
        unknown = np.setdiff1d(self.image_ids, self.ground_truth.getImgIds())
        if unknown.size:
            raise ValueError(
                f"{self.annotations.where} has no image {unknown[0]}, which a sample refers to"
            )
        self.joint_threshold = joint_threshold
        self.nms_threshold = nms_threshold
        self.soft_nms = soft_nms
        self.add_state("sample_index", default=[], dist_reduce_fx="cat")
        self.add_state("keypoints", default=[], dist_reduce_fx="cat")

    def update(
        self,
        *,
        predicted: Float[Tensor, "B K 2"],
        scores: Float[Tensor, "B K"],
        sample_index: Int64[Tensor, " B"],
    ) -> None:
        """Take in a batch.

        Args:
            predicted: x, y in image pixels.
            scores: Of the joints.
            sample_index: Which sample each row is; of several rows of one the first counts.

        Raises:
            ValueError: The arrays do not have the metric's number of joints.
        """
        if predicted.shape[1:] != (len(self.sigmas), 2) or scores.shape != predicted.shape[:2]:
            raise ValueError(
                f"average precision of {len(self.sigmas)} joints: predicted has shape "
                f"{tuple(predicted.shape)}, scores {tuple(scores.shape)}"
            )
        self.keypoints.append(torch.cat([predicted.float(), scores.float()[..., None]], -1))
        self.sample_index.append(sample_index)

    def compute(self) -> dict[str, Tensor]:
        """COCO's ten scores, fractions."""
        statistics = _evaluate(self._detections(), self.annotations, self.ground_truth, self.sigmas)
        return {
            name: torch.tensor(value, dtype=torch.float32, device=self.device)
            for name, value in statistics.items()
        }

    def _detections(self) -> list[dict[str, Any]]:
        if len(self.sample_index) == 0:
            return []
        index = dim_zero_cat(self.sample_index)
        first = first_rows(index)
        return self.detections(
            dim_zero_cat(self.keypoints)[first].cpu().numpy(), index[first].cpu().numpy()
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
                        "category_id": self.annotations.category,
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


def mean_joint_score(scores: Float[np.ndarray, "N K"], threshold: float) -> Float[np.ndarray, " N"]:
    """Mean of a person's joint scores above the threshold, 0 where there is none (HRNet's rescoring)."""
    counts = scores > threshold
    return (scores * counts).sum(-1) / np.maximum(counts.sum(-1), 1)


def _read(ground_truth: Annotations | Mapping[str, Any] | Path | str) -> Annotations:
    return ground_truth if isinstance(ground_truth, Annotations) else read_annotations(ground_truth)


def _index(annotations: Annotations) -> CocoIndex:
    """What pycocotools reads: persons alone, numbered from 1.

    It notes the id of the annotation that a detection matches, and takes 0 for "none".
    """
    index = CocoIndex()
    # COCOeval marks annotations it ignores; the caller's records are not to change.
    copies = [
        {**record, "id": number, "category_id": PERSON}
        for number, record in enumerate(annotations.records, 1)
    ]
    index.dataset = {  # pyright: ignore
        "images": annotations.images,
        "annotations": copies,
        "categories": [{"id": PERSON, "name": "person"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
    return index


def _evaluate(
    detections: Sequence[Mapping[str, Any]],
    annotations: Annotations,
    ground_truth: CocoIndex,
    sigmas: Sequence[float] | np.ndarray,
) -> dict[str, float]:
    # A test set's annotations are not public.
    if not detections or not annotations.records:
        return dict.fromkeys(STATISTICS, math.nan)
    with contextlib.redirect_stdout(io.StringIO()):
        # pycocotools writes ids and areas into the records it is given.
        copies: Any = _persons_of(detections, annotations, len(sigmas))
        results = ground_truth.loadRes(copies)
        evaluation = COCOeval(ground_truth, results, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools says -1 where no ground truth is of the size in question.
    return {
        name: float(value) if value > -1 else math.nan
        for name, value in zip(STATISTICS, evaluation.stats, strict=True)
    }


def _persons_of(
    detections: Sequence[Mapping[str, Any]], annotations: Annotations, joint_count: int
) -> list[dict[str, Any]]:
    """Copies of the detections of persons, checked."""
    images = {image["id"] for image in annotations.images}
    persons = []
    for record, detection in enumerate(detections):
        missing = {"image_id", "category_id", "keypoints", "score"} - detection.keys()
        if missing:
            raise ValueError(f"detection {record} lacks {', '.join(sorted(missing))}")
        if detection["image_id"] not in images:
            raise ValueError(
                f"detection {record} is in image {detection['image_id']}, which the ground truth "
                "does not list: detections and annotations are of different datasets"
            )
        if detection["category_id"] != annotations.category:
            continue
        if len(detection["keypoints"]) != 3 * joint_count:
            raise ValueError(
                f"detection {record} has {len(detection['keypoints'])} numbers in keypoints; "
                f"{joint_count} joints need {3 * joint_count}"
            )
        persons.append({**detection, "category_id": PERSON})
    if not persons:
        raise ValueError(
            f"none of the {len(detections)} detections has category_id {annotations.category}, which "
            f"is person in {annotations.where}; take detections that number categories as it does"
        )
    return persons

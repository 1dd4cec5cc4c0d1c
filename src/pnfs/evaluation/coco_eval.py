"""COCO's average precision of detections, by pycocotools."""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools.coco import COCO as CocoIndex
from pycocotools.cocoeval import COCOeval

from pnfs.evaluation.oks import COCO_SIGMAS, VISIBILITIES

STATISTICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)",
              "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")  # fmt: skip
"""COCO's ten keypoint scores, in the order of `COCOeval.stats`."""

Detection = Mapping[str, Any]
"""One predicted person in COCO's result format: image_id, category_id, keypoints (x, y and score of
the K joints in the skeleton's order) and score."""


@dataclass(frozen=True)
class GroundTruth:
    """The labelled persons of an annotation file, as pycocotools needs them."""

    where: str
    """File name for messages."""
    images: list[dict[str, Any]]
    records: list[dict[str, Any]]
    """Annotations of persons, none of whose keys is missing: id, image_id, category_id, bbox, area,
    iscrowd, num_keypoints, keypoints in the skeleton's order."""
    category: int
    """Id of the category "person" in this file."""


def evaluate_detections(
    detections: Sequence[Detection],
    truth: GroundTruth,
    sigmas: Sequence[float] | Float[np.ndarray, " K"] = COCO_SIGMAS,
) -> dict[str, float]:
    """COCO's ten keypoint scores of detections, by pycocotools.

    Detections of other categories than person are left out.

    Args:
        detections: In any order.
        truth: All persons of the images, crowds among them.
        sigmas: The skeleton's per-joint standard deviations.

    Returns:
        Fractions under the names in `STATISTICS`; nan where there is nothing to score: no
        detections, or no person of that size.

    Raises:
        ValueError: Detections that are not in the format; the message names the record.
    """
    # A test set's annotations are not public.
    if not detections or not truth.records:
        return dict.fromkeys(STATISTICS, math.nan)
    index = CocoIndex()
    # pycocotools notes the id of the annotation that a detection matches, and takes 0 for "none". It
    # marks annotations that it ignores; the caller's records are not to change.
    records = [{**record, "id": number} for number, record in enumerate(truth.records, 1)]
    index.dataset = {  # pyright: ignore
        "images": truth.images,
        "annotations": records,
        "categories": [{"id": truth.category, "name": "person"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
        persons: Any = _persons_of(detections, truth, len(sigmas))
        evaluation = COCOeval(index, index.loadRes(persons), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools says -1 where no ground truth is of the size in question.
    return {
        name: float(value) if value > -1 else math.nan
        for name, value in zip(STATISTICS, evaluation.stats, strict=True)
    }


def evaluate_by_visibility(
    detections: Sequence[Detection],
    truth: GroundTruth,
    sigmas: Sequence[float] | Float[np.ndarray, " K"] = COCO_SIGMAS,
) -> dict[str, float]:
    """AP and AR over visible joints alone, and over occluded joints alone.

    Labels of the other kind are taken out of the ground truth; persons left without a label are
    ignored, as COCO's evaluation ignores unlabelled persons. Arguments and errors are those of
    `evaluate_detections`.

    Returns:
        "AP/visible", "AP/occluded", "AR/visible", "AR/occluded", fractions; nan where no joint is
        labelled so.
    """
    scores = {}
    for kind, flag in VISIBILITIES.items():
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


def _persons_of(
    detections: Sequence[Detection], truth: GroundTruth, joint_count: int
) -> list[dict[str, Any]]:
    """The detections of persons, checked; copies, because pycocotools writes ids and areas into them."""
    images = {image["id"] for image in truth.images}
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
        if detection["category_id"] != truth.category:
            continue
        if len(detection["keypoints"]) != 3 * joint_count:
            raise ValueError(
                f"detection {record} has {len(detection['keypoints'])} numbers in keypoints; "
                f"{joint_count} joints need {3 * joint_count}"
            )
        persons.append(dict(detection))
    if not persons:
        raise ValueError(
            f"none of the {len(detections)} detections has category_id {truth.category}, which "
            f"is person in {truth.where}; take detections that number categories as it does"
        )
    return persons

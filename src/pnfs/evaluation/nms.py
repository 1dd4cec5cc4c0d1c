"""Suppression of several predictions of one person, found by their OKS (HRNet, `lib/nms/nms.py`)."""

import numpy as np
from jaxtyping import Float, Int64

from pnfs.evaluation.oks import COCO_SIGMAS, oks

MAX_DETECTIONS = 20
"""Persons per image that COCO's evaluation looks at."""


def oks_nms(
    keypoints: Float[np.ndarray, "M K D"],
    scores: Float[np.ndarray, " M"],
    areas: Float[np.ndarray, " M"],
    threshold: float,
    sigmas: Float[np.ndarray, " K"] = COCO_SIGMAS,
) -> Int64[np.ndarray, " N"]:
    """Rows that stay when predictions too similar to a better one are dropped (HRNet's `oks_nms`).

    Args:
        keypoints: x, y in image pixels; further columns are not used.
        scores: Score of each prediction.
        areas: Area of each prediction, in square pixels.
        threshold: The highest OKS that two rows which stay may have.
        sigmas: The skeleton's per-joint standard deviations.

    Returns:
        Rows, best first.
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
    sigmas: Float[np.ndarray, " K"] = COCO_SIGMAS,
) -> Int64[np.ndarray, " N"]:
    """Rows by scores that fall with the similarity to better ones (HRNet's `soft_oks_nms`).

    After each pick the scores of the rest are multiplied by exp(-OKS² / threshold). The arguments
    are those of `oks_nms`.

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

"""Object keypoint similarity (OKS), how alike two poses are, from 0 to 1; OKS-NMS (HRNet, `lib/nms/nms.py`)."""

import numpy as np
from jaxtyping import Bool, Float, Int64

from pnfs.body import COCO, Skeleton

COCO_SIGMAS = np.array(COCO.oks_sigmas)
"""COCO's standard deviation of each joint's labels, as a share of the person's scale."""

MAX_DETECTIONS = 20
"""Persons per image that COCO's evaluation looks at."""


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

    The similarity of two predictions is over all joints, with the mean of both areas; lengths are in image pixels.

    Args:
        threshold: The highest OKS that two rows which stay may have.
        soft: Instead of dropping any, multiply the scores of the rest by exp(-OKS² / threshold) after each
            pick, and end after MAX_DETECTIONS picks (HRNet's `soft_oks_nms`).
    """
    order = np.argsort(scores)[::-1]
    remaining = scores[order]
    kept = []
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

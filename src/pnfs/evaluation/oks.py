"""Object keypoint similarity (OKS): how alike two poses are, between 0 and 1."""

import numpy as np
from jaxtyping import Bool, Float

from pnfs.body import COCO, Skeleton

COCO_SIGMAS = np.array(COCO.oks_sigmas)
"""COCO's standard deviation of each joint's labels, as a share of the person's scale."""

VISIBILITIES = {"visible": 2, "occluded": 1}
"""Kinds of labelled joints -> COCO's visibility flag."""


def similarity_sigmas(skeleton: Skeleton) -> Float[np.ndarray, " K"]:
    """The skeleton's per-joint standard deviations.

    Where its benchmark defines none, joints that COCO labels have COCO's, others COCO's mean.
    """
    if skeleton.oks_sigmas is not None:
        return np.array(skeleton.oks_sigmas)
    known = dict(zip(COCO.joints, COCO_SIGMAS.tolist(), strict=True))
    return np.array([known.get(joint, COCO_SIGMAS.mean()) for joint in skeleton.joints])


def oks(
    keypoints: Float[np.ndarray, "K 2"],
    others: Float[np.ndarray, "M K 2"],
    area: float | np.floating | np.ndarray,
    other_areas: Float[np.ndarray, " M"],
    sigmas: Float[np.ndarray, " K"] = COCO_SIGMAS,
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


def labelled_oks(
    joints: Float[np.ndarray, "M K 2"],
    labelled: Bool[np.ndarray, "M K"],
    areas: Float[np.ndarray, " M"],
    predicted: Float[np.ndarray, "N K 2"],
    sigmas: Float[np.ndarray, " K"],
) -> Float[np.ndarray, "M N"]:
    """COCO's OKS of every labelled person with every predicted one: labelled joints count.

    Args:
        joints: Labelled x, y in image pixels.
        labelled: Joints that count.
        areas: Area of each labelled person, in square pixels.
        predicted: x, y in image pixels.
        sigmas: The skeleton's per-joint standard deviations.
    """
    squared = ((joints[:, None] - predicted[None]) ** 2).sum(-1)
    near = np.exp(-squared / (8 * sigmas**2 * areas[:, None, None]))
    counts = labelled[:, None].astype(np.float64)
    return (near * counts).sum(-1) / np.maximum(counts.sum(-1), 1)


def mean_joint_score(scores: Float[np.ndarray, "N K"], threshold: float) -> Float[np.ndarray, " N"]:
    """Mean of a person's joint scores above the threshold, 0 where there is none (HRNet's rescoring)."""
    counts = scores > threshold
    return (scores * counts).sum(-1) / np.maximum(counts.sum(-1), 1)

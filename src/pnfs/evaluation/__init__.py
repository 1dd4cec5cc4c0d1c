"""Scores of predicted poses, and the flip test."""

from pnfs.evaluation.flip import average_with_flip, flip_maps
from pnfs.evaluation.oks import (
    OKSAveragePrecision,
    evaluate_detections,
    oks,
    oks_nms,
    soft_oks_nms,
)
from pnfs.evaluation.pck import PCK, head_size, torso_size

__all__ = [
    "PCK",
    "OKSAveragePrecision",
    "average_with_flip",
    "evaluate_detections",
    "flip_maps",
    "head_size",
    "oks",
    "oks_nms",
    "soft_oks_nms",
    "torso_size",
]

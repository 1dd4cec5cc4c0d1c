"""Scores of predicted poses, and the flip test."""

from pnfs.evaluation.flip import average_with_flip, flip_maps
from pnfs.evaluation.oks import (
    OKSAveragePrecision,
    evaluate_detections,
    oks,
    oks_nms,
    soft_oks_nms,
)
from pnfs.evaluation.pck import PCK, PCKCurve, head_size, torso_size
from pnfs.evaluation.results_file import check_results

__all__ = [
    "PCK",
    "OKSAveragePrecision",
    "PCKCurve",
    "average_with_flip",
    "check_results",
    "evaluate_detections",
    "flip_maps",
    "head_size",
    "oks",
    "oks_nms",
    "soft_oks_nms",
    "torso_size",
]

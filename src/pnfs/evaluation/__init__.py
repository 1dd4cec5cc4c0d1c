"""Scores of predicted poses."""

from pnfs.evaluation.average_precision import OKSAveragePrecision
from pnfs.evaluation.coco_eval import DetectedPoses, GroundTruth, evaluate_detections
from pnfs.evaluation.oks import oks, oks_nms
from pnfs.evaluation.pck import PCK, PCKCurve, head_size, torso_size
from pnfs.evaluation.person_metric import Criterion, PersonMetric

__all__ = [
    "PCK",
    "Criterion",
    "DetectedPoses",
    "GroundTruth",
    "OKSAveragePrecision",
    "PCKCurve",
    "PersonMetric",
    "evaluate_detections",
    "head_size",
    "oks",
    "oks_nms",
    "torso_size",
]

"""Scores of predicted poses."""

from pnfs.evaluation.coco_eval import DetectedPoses, OKSAveragePrecision, evaluate_detections, oks, oks_nms
from pnfs.evaluation.pck import PCK, head_size, torso_size
from pnfs.evaluation.person_metric import Criterion, PersonMetric

__all__ = ["PCK", "Criterion", "DetectedPoses", "OKSAveragePrecision", "PersonMetric"]
__all__ += ["evaluate_detections", "head_size", "oks", "oks_nms", "torso_size"]

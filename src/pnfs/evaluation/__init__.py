
from pnfs.evaluation.average_precision import OKSAveragePrecision
from pnfs.evaluation.coco_eval import GroundTruth, evaluate_detections
from pnfs.evaluation.nms import oks_nms, soft_oks_nms
from pnfs.evaluation.oks import oks
from pnfs.evaluation.pck import PCK, PCKCurve, head_size, torso_size
from pnfs.evaluation.person_metric import Criterion, PersonMetric

__all__ = [
    "PCK",
    "Criterion",
    "GroundTruth",
    "OKSAveragePrecision",
    "PCKCurve",
    "PersonMetric",
    "evaluate_detections",
    "head_size",
    "oks",
    "oks_nms",
    "soft_oks_nms",
    "torso_size",
]

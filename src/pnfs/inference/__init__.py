"""Poses in anybody's pictures: from an image and boxes to joints."""

from pnfs.inference.poses import ImageWithBoxes, PersonMaps, Prediction
from pnfs.inference.predictor import Predictor, Runtime, TorchRuntime, choose_device

__all__ = ["ImageWithBoxes", "PersonMaps", "Prediction", "Predictor", "Runtime", "TorchRuntime"]
__all__ += ["choose_device"]

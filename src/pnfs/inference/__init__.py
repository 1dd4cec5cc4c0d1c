"""Poses in anybody's pictures: from an image and boxes to joints."""

from pnfs.inference.poses import ImageWithBoxes, PersonMaps, Prediction
from pnfs.inference.predictor import ExportedNetwork, Predictor, choose_device

__all__ = ["ExportedNetwork", "ImageWithBoxes", "PersonMaps", "Prediction", "Predictor", "choose_device"]

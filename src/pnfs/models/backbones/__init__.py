"""Backbones: images to feature pyramids at 1/4, 1/8, 1/16 and 1/32."""

from pnfs.models.backbones.fabric import FabricBackbone
from pnfs.models.backbones.mobilenet_v2 import MobileNetV2
from pnfs.models.backbones.pyramid import Backbone
from pnfs.models.backbones.resnet import ResNet50

__all__ = ["Backbone", "FabricBackbone", "MobileNetV2", "ResNet50"]

"""Backbones: images to feature pyramids at 1/4, 1/8, 1/16 and 1/32."""

from pnfs.models.backbones.fabric import FabricBackbone
from pnfs.models.backbones.hrnet import HRNet
from pnfs.models.backbones.mobilenet_v2 import MobileNetV2
from pnfs.models.backbones.pyramid import Backbone
from pnfs.models.backbones.resnet import ResNet
from pnfs.models.backbones.timm import TimmBackbone

__all__ = ["Backbone", "FabricBackbone", "HRNet", "MobileNetV2", "ResNet", "TimmBackbone"]

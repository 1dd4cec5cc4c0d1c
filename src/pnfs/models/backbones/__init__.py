"""Backbones: images to feature pyramids at 1/4, 1/8, 1/16 and 1/32."""

from pnfs.models.backbones.fabric import FabricBackbone, Stem
from pnfs.models.backbones.hrnet import HRNet
from pnfs.models.backbones.pyramid import Backbone
from pnfs.models.backbones.timm import TimmBackbone
from pnfs.models.backbones.torchvision import MobileNetV2, ResNet

__all__ = [
    "Backbone",
    "FabricBackbone",
    "HRNet",
    "MobileNetV2",
    "ResNet",
    "Stem",
    "TimmBackbone",
]

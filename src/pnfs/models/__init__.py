"""Pose networks: operations, cells, fabrics, vector heads, backbones."""

from pnfs.models.fabric import PAPER, REFERENCE, FabricRules
from pnfs.models.fabrics import NeuralFabrics
from pnfs.models.network import PoseFabricNetwork, PoseNetwork, normalise_images

__all__ = [
    "PAPER",
    "REFERENCE",
    "FabricRules",
    "NeuralFabrics",
    "PoseFabricNetwork",
    "PoseNetwork",
    "normalise_images",
]

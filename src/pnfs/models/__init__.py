"""Pose networks: operations, cells, fabrics, vector heads, backbones."""

from pnfs.models.connect import PAPER, POSENFS, FabricRules
from pnfs.models.fabric import NeuralFabrics
from pnfs.models.network import PoseFabricNetwork, PoseNetwork

__all__ = [
    "PAPER",
    "POSENFS",
    "FabricRules",
    "NeuralFabrics",
    "PoseFabricNetwork",
    "PoseNetwork",
]

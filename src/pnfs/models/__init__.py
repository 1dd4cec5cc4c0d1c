"""Pose networks: operations, cells, fabrics, vector heads, backbones."""

from pnfs.models.fabric import NeuralFabrics
from pnfs.models.network import PoseFabricNetwork, PoseNetwork
from pnfs.models.operations import PAPER, POSENFS, FabricRules

__all__ = ["PAPER", "POSENFS", "FabricRules", "NeuralFabrics", "PoseFabricNetwork", "PoseNetwork"]

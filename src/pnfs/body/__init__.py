"""Skeletons and part modes: plain data that every other package may use."""

from pnfs.body.parts import PartMode
from pnfs.body.skeleton import COCO, LSP, MPII, MPII_FILE_JOINTS, SKELETONS, Skeleton, skeleton_by_name

__all__ = ["COCO", "LSP", "MPII", "MPII_FILE_JOINTS", "SKELETONS", "PartMode", "Skeleton", "skeleton_by_name"]

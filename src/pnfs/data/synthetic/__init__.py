"""Drawn people: a dataset that needs no download and that pose networks can learn from."""

from pnfs.data.synthetic.dataset import SKELETON_NAMES, Synthetic

__all__ = ["SKELETON_NAMES", "Synthetic"]

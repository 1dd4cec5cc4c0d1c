"""Joints to score maps and back."""

from pnfs.codec.decode import decode, to_image
from pnfs.codec.targets import gaussian_targets

__all__ = ["decode", "gaussian_targets", "to_image"]

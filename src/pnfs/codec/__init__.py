"""Joints to score maps and back."""

from pnfs.codec.decode import blur_size, decode, to_image
from pnfs.codec.targets import gaussian_targets

__all__ = ["blur_size", "decode", "gaussian_targets", "to_image"]

"""Joints to heatmaps and back."""

from pnfs.codec.codec import Codec, to_image
from pnfs.codec.decode import DecodeMethod, blur_size, decode

__all__ = ["Codec", "DecodeMethod", "blur_size", "decode", "to_image"]

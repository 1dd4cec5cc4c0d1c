"""Joints to heatmaps and back."""

from pnfs.codec.codec import Codec, DecodeMethod, blur_size, decode, to_image

__all__ = ["Codec", "DecodeMethod", "blur_size", "decode", "to_image"]

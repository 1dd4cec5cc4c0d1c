"""Brightness of more than 8 bits as 8 bits."""

import numpy as np
from jaxtyping import Shaped, UInt8

from pnfs.errors import PnfsError


def to_bytes(
    pixels: Shaped[np.ndarray, "H W *C"], bits: int | None = None
) -> UInt8[np.ndarray, "H W *C"]:
    """Pixels of any number type, scaled to 0..255.

    Integers of 16 bits are divided by 257. Of wider integers and of floating point numbers the
    range says the scale: up to 1 (floating point only), up to 255, up to 65535.

    Args:
        pixels: Brightness from 0 upwards.
        bits: Bits of an integer in the file, where that differs from the array's.

    Raises:
        ValueError: Numbers are negative, not finite or larger than 65535, or a 16-bit picture
            that is not black holds nothing above 255, which would become black.
    """
    if pixels.dtype == np.uint8:
        return pixels
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise PnfsError("holds numbers that are not finite")
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < 0 or high > 65535:
        raise PnfsError(
            f"holds numbers from {low:g} to {high:g}, of which 0 to 1, 0 to 255 or 0 to 65535 can "
            "be read; save it with 8 bits a channel"
        )
    is_float = pixels.dtype.kind == "f"
    if not is_float and (bits or 8 * pixels.dtype.itemsize) == 16:
        if 0 < high <= 255:
            raise PnfsError(
                f"holds 16-bit numbers up to {high:g} of 65535 and would be black; save it with 8 "
                "bits a channel"
            )
        scale = 1 / 257
    elif is_float and high <= 1:
        scale = 255.0
    else:
        scale = 1.0 if high <= 255 else 1 / 257
    return (values * scale).round().astype(np.uint8)

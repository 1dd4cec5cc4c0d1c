"""Geometry of crops: one affine map from the image to the crop."""

import math

import cv2
import numpy as np
from jaxtyping import Float, Float64

from pnfs.errors import PnfsError


def fit_box(size: Float[np.ndarray, "*N 2"], aspect: float) -> Float[np.ndarray, "*N 2"]:
    """The smallest box (width, height) of an aspect, width over height, that holds a box (HRNet's `_box2cs`)."""
    size = np.asarray(size)
    width, height = size[..., 0], size[..., 1]
    return np.stack([np.maximum(width, height * aspect), np.maximum(height, width / aspect)], -1)


def crop_matrix(
    center: Float[np.ndarray, " 2"],
    box_size: Float[np.ndarray, " 2"],
    rotation_degrees: float,
    output_size: tuple[int, int],
    flip: bool = False,
    unbiased: bool = False,
) -> Float64[np.ndarray, "2 3"]:
    """The map from pixels of the image to pixels of the crop (HRNet's `get_affine_transform`).

    The centre (x, y) of the box (width, height) falls on (width / 2, height / 2) of the crop, whose (height,
    width) is `output_size`; the box's width fills the crop's (see `fit_box`, with the aspect of `crop_extent`).
    Positive rotation turns the content counter-clockwise; `flip` mirrors the crop, x' = width - 1 - x.

    `unbiased` measures the crop in pixel intervals, width - 1 and height - 1 (J. Huang et al., The Devil is in the
    Details, CVPR 2020, Sec. 3.2): the box's edges fall on the middles of the outermost pixels, and the flip test
    needs no shift. Raises PnfsError if the box has no width, a number is not finite, or the crop is too small.
    """
    width, height = crop_extent(output_size, unbiased)
    box_width = float(box_size[0])
    if not (np.isfinite([*center, box_width, rotation_degrees]).all() and box_width > 0):
        box = f"a box of size {np.asarray(box_size).tolist()} at {np.asarray(center).tolist()}"
        raise PnfsError(f"no crop can be made of {box}, turned by {rotation_degrees}: numbers must be finite")
    scale, angle = width / box_width, math.radians(rotation_degrees)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    linear = np.array([[cosine, sine], [-sine, cosine]])
    translation = np.array([width / 2, height / 2]) - linear @ np.asarray(center, np.float64)
    matrix = np.column_stack([linear, translation])
    if flip:
        matrix[0] = -matrix[0]
        matrix[0, 2] += output_size[1] - 1
    return matrix


def crop_extent(size: tuple[int, int], unbiased: bool = False) -> tuple[int, int]:
    """(width, height) of a crop or heatmap (height, width) as `crop_matrix` measures: pixels, or intervals."""
    height, width = (side - unbiased for side in size)
    if min(height, width) < 1:
        needed = "two pixels a side in unbiased geometry" if unbiased else "a pixel a side"
        raise PnfsError(f"a crop or heatmap of {size} (height, width) is too small: give {needed}")
    return width, height


def invert(matrix: Float64[np.ndarray, "2 3"]) -> Float64[np.ndarray, "2 3"]:
    """The map that undoes `matrix`."""
    return cv2.invertAffineTransform(np.asarray(matrix, np.float64))


def compose(
    outer: Float64[np.ndarray, "*N 2 3"], inner: Float64[np.ndarray, "*N 2 3"]
) -> Float64[np.ndarray, "*N 2 3"]:
    """The map that does `inner` first, then `outer`."""
    product = outer[..., :2] @ inner
    product[..., 2] += outer[..., 2]
    return product


def apply(matrix: Float[np.ndarray, "2 3"], points: Float[np.ndarray, "*N 2"]) -> Float[np.ndarray, "*N 2"]:
    """Where `matrix` takes points x, y."""
    return points @ matrix[:, :2].T + matrix[:, 2]

"""Lines, dots, text and resizing on RGB arrays, exact to a fraction of a pixel."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from jaxtyping import Float, Int32, UInt8
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Picture = UInt8[np.ndarray, "H W 3"]
Point = Float[np.ndarray, " 2"]

LABEL_COLOUR: Colour = (255, 255, 255)
OUTLINE_COLOUR: Colour = (20, 20, 20)
FILLER: Colour = (226, 226, 226)
PLATE: Colour = (56, 56, 56)

_SHIFT = 6
"""Fractional bits of the coordinates handed to OpenCV: 1/64 pixel."""
_UNIT_CIRCLE = np.stack([f(np.arange(32) * (math.tau / 32)) for f in (np.cos, np.sin)], axis=-1)


def blank(height: int, width: int, colour: Colour) -> Picture:
    return np.full((height, width, 3), colour, np.uint8)


def line(canvas: Picture, start: Point, end: Point, colour: Colour, width: int) -> None:
    ends = _fixed(np.stack([start, end]))[:, None]
    cv2.polylines(canvas, [ends], False, colour, width, cv2.LINE_AA, _SHIFT)


def dot(
    canvas: Picture, center: Point, radius: float, colour: Colour, *, hollow: bool = False
) -> None:
    """A disk with a thin dark outline, and with a dark core if `hollow`."""
    disks = [(radius + max(0.8, radius / 6), OUTLINE_COLOUR), (radius, colour)]
    for size, its_colour in [*disks, (0.6 * radius, OUTLINE_COLOUR)][: 3 if hollow else 2]:
        # A polygon, since OpenCV's own small circles are diamonds; it has half a pixel of smoothed border.
        points = center + max(size - 0.5, 0.25) * _UNIT_CIRCLE
        cv2.fillConvexPoly(canvas, _fixed(points)[:, None], its_colour, cv2.LINE_AA, _SHIFT)


def ring(canvas: Picture, center: Point, radius: float) -> None:
    """A thin circle with a dark outline."""
    _outlined(canvas, center + radius * _UNIT_CIRCLE, 1)


def box(canvas: Picture, place: Float[np.ndarray, " 4"], width: int) -> None:
    """The border of a box (x, y, width, height), with a dark outline."""
    low, size = np.asarray(place, np.float64).reshape(2, 2)
    # A box from edge to edge has its border half a pixel before the centre of its first pixel.
    _outlined(canvas, low - 0.5 + size * [(0, 0), (1, 0), (1, 1), (0, 1)], width)


def _outlined(canvas: Picture, corners: Float[np.ndarray, "N 2"], width: int) -> None:
    for colour, its_width in ((OUTLINE_COLOUR, width + 2), (LABEL_COLOUR, width)):
        points = _fixed(corners)[:, None]
        cv2.polylines(canvas, [points], True, colour, its_width, cv2.LINE_AA, _SHIFT)


def _fixed(points: Float[np.ndarray, "N 2"]) -> Int32[np.ndarray, "N 2"]:
    # OpenCV's fixed-point coordinates overflow far outside the image; nothing is drawn out there.
    return np.rint(np.clip(points, -1e5, 1e5) * 2**_SHIFT).astype(np.int32)


def letterbox(
    image: Picture, cell: tuple[int, int]
) -> tuple[Picture, Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """The image as large as fits a cell (height, width), centred.

    Returns:
        The cell, scale and offset: px of the cell = scale * px of the image + offset (x, y).
    """
    size, room = np.array(image.shape[1::-1]), np.array(cell[::-1])
    fitted = np.maximum(1, np.rint(size * (room / size).min())).astype(int)
    scale = fitted / size
    method = cv2.INTER_AREA if (scale < 1).any() else cv2.INTER_CUBIC
    left, top = ((room - fitted) // 2).tolist()
    picture = blank(*cell, FILLER)
    resized = cv2.resize(image, tuple(fitted.tolist()), interpolation=method)
    picture[top : top + fitted[1], left : left + fitted[0]] = resized
    # OpenCV's resize aligns the edges of the two grids, not the centres of their first pixels.
    return picture, scale, (scale - 1) / 2 + (left, top)


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    # Comes with matplotlib, so that a sheet looks the same everywhere; OpenCV 4 writes ASCII only.
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size)


def write(canvas: Picture, texts: Sequence[tuple[str, tuple[int, int], Colour]], size: int) -> None:
    """Writes texts, each with the place of its left middle (x, y) in px and its colour."""
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for text, place, colour in texts:
        draw.text(place, text, colour, font(size), anchor="lm")
    canvas[...] = np.asarray(picture)


def label(canvas: Picture, text: str, corner: Point, size: int) -> None:
    """Text on a dark plate, above the corner where there is room, in any case inside the image."""
    extent = np.array([math.ceil(font(size).getlength(text)) + 4, size + 4])
    last = np.maximum(0, np.array(canvas.shape[1::-1]) - extent)
    left, top = np.clip(corner - [0, size + 4], 0, last).astype(int).tolist()
    room = canvas[top : top + size + 4, left : left + extent[0]]
    room[...] = PLATE
    write(room, [(text, (2, size // 2 + 2), (240, 240, 240))], size)

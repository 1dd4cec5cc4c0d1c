"""Contact sheets: images in a grid, predicted poses beside their labels, score maps as heat."""

import math
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pnfs.body import Skeleton
from pnfs.errors import PnfsError
from pnfs.viz.canvas import (
    FILLER,
    LABEL_COLOUR,
    PLATE,
    Picture,
    blank,
    font,
    letterbox,
    ring,
    write,
)
from pnfs.viz.poses import LOW_SCORE, Pose, limb_width
from pnfs.viz.style import SIDE_COLOURS, checked_rgb

CELL = (192, 192)
"""(height, width) of an image on a sheet, px."""
_GAP = 4


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    *,
    captions: Sequence[str] | None = None,
    columns: int = 8,
    cell: tuple[int, int] = CELL,
) -> UInt8[np.ndarray, "H W 3"]:
    """A grid of images in reading order, 4 px apart, each above its caption.

    Args:
        images: RGB, of any sizes; each fills its cell as far as its shape allows.
        captions: One line an image, cut where it is too long; None for no captions.
        columns: Images in a row; fewer images make a narrower sheet.
        cell: (height, width) of an image on the sheet, in px.

    Raises:
        ValueError: No images, an image that is not RGB, or another number of captions.
    """
    if not len(images) or (captions is not None and len(captions) != len(images)):
        raise PnfsError(
            f"a contact sheet of {len(images)} images with {len(captions or ())} captions"
        )
    (height, width), size = cell, _text_size(cell)
    columns = min(columns, len(images))
    strip = 0 if captions is None else math.ceil(1.5 * size)
    rows = math.ceil(len(images) / columns)
    step = np.array([height + strip + _GAP, width + _GAP])
    page_height, page_width = (step * [rows, columns] + _GAP).tolist()
    page = blank(page_height, page_width, (255, 255, 255))
    texts = []
    for index, image in enumerate(images):
        top, left = (step * divmod(index, columns) + _GAP).tolist()
        picture, _, _ = letterbox(checked_rgb(image, f"image {index}"), cell)
        page[top : top + height, left : left + width] = picture
        if captions is not None:
            caption = _shortened(captions[index], width, size)
            texts.append((caption, (left + 1, top + height + strip // 2), (40, 40, 40)))
    write(page, texts, size)
    return page


def _text_size(cell: tuple[int, int]) -> int:
    """Size of type that suits a cell (height, width), in px."""
    return int(np.clip(min(cell) // 15, 9, 24))


def _shortened(text: str, width: int, size: int) -> str:
    """The text in one line, cut with an ellipsis where it is wider than `width` px."""
    text = shown = " ".join(text.split())
    while text and font(size).getlength(shown) > width:
        text = text[:-1].rstrip()
        shown = text + "…"
    return shown


def pose_sheet(
    crops: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    predicted: Float[np.ndarray, "N K 2"],
    *,
    skeleton: Skeleton,
    scores: Float[np.ndarray, "N K"] | None = None,
    target: Float[np.ndarray, "N K 2"] | None = None,
    labelled: Bool[np.ndarray, "N K"] | None = None,
    captions: Sequence[str] | None = None,
    columns: int = 8,
    cell: tuple[int, int] = CELL,
) -> UInt8[np.ndarray, "H W 3"]:
    """Predictions on their crops, with the labels and a line from each joint to its label.

    Args:
        crops: N images, RGB.
        predicted: x, y in px of the crops.
        skeleton: Whose joints they are.
        scores: Scores of the predicted joints; see `Pose`.
        target: The labels, in px of the crops; None shows the predictions alone.
        labelled: Joints that have a label; None if all have.
        captions: One line a crop; this, `columns` and `cell` as in `contact_sheet`.

    Raises:
        ValueError: Arrays whose shapes do not fit together, or a drawn joint that is not finite.
    """
    arrays = {"predicted": predicted, "scores": scores, "target": target, "labelled": labelled}
    for name, array in arrays.items():
        if array is not None and len(array) != len(crops):
            raise PnfsError(f"{len(array)} rows of {name} for {len(crops)} crops")
    pictures = []
    for n, crop in enumerate(crops):
        picture, scale, offset = letterbox(checked_rgb(crop, f"crop {n}"), cell)
        sure = None if scores is None else scores[n]
        known = None if labelled is None else labelled[n]
        pose = Pose.of(
            predicted[n] * scale + offset,
            skeleton,
            sure,
        )
        labels = (
            None if target is None else Pose.of(target[n] * scale + offset, skeleton, None, known)
        )
        pose.draw(picture, limb_width(picture), labels)
        pictures.append(picture)
    sheet = contact_sheet(pictures, captions=captions, columns=columns, cell=cell)
    low = np.zeros(0) if scores is None else np.asarray(scores)
    hollow = bool(((low != 0) & (low < LOW_SCORE)).any())
    legend = _legend(sheet.shape[1], _text_size(cell), labels=target is not None, hollow=hollow)
    return np.concatenate([sheet, legend])


def _legend(width: int, size: int, *, labels: bool, hollow: bool) -> Picture:
    """A strip with the meaning of each colour, in as many lines as it takes."""
    entries = [
        ("● person's left", SIDE_COLOURS["left"]),
        ("● person's right", SIDE_COLOURS["right"]),
        ("● centre", SIDE_COLOURS["centre"]),
    ]
    entries += [("— label and error", LABEL_COLOUR)] if labels else []
    entries += [(f"○ score below {LOW_SCORE:g}", FILLER)] if hollow else []
    texts, x, row = [], size, 0
    for text, colour in entries:
        length = math.ceil(font(size).getlength(text))
        if x > size and x + length > width:
            x, row = size, row + 1
        texts.append((text, (x, 2 * size * row + size), colour))
        x += length + 2 * size
    legend = blank(2 * size * (row + 1), width, PLATE)
    write(legend, texts, size)
    return legend


def score_map_sheet(
    crop: UInt8[np.ndarray, "H W 3"],
    maps: Float[np.ndarray, "J h w"],
    names: Sequence[str],
    *,
    columns: int = 8,
    cell: tuple[int, int] = CELL,
    highest: float | None = None,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The score maps of one person as heat over the crop, each with its maximum in the caption.

    A pixel (x, y) of a map lies on (x, y) × stride of the crop; a ring marks the maximum.

    Args:
        crop: RGB.
        maps: Score maps of parts or joints; the stride is H / h.
        names: One per map.
        columns: Maps in a row; the bare crop comes first. `cell` as in `contact_sheet`.
        highest: Score of the brightest colour; the maps may be of several joints, so that nothing is
            marked. None: that of the highest of all maps, and each map's maximum is marked.

    Raises:
        ValueError: No maps, maps of another shape than the crop, or another number of names.
    """
    crop, maps = checked_rgb(crop, "crop"), np.asarray(maps, np.float32)
    (height, width), shape = crop.shape[:2], maps.shape
    if (
        maps.ndim != 3
        or not maps.size
        or len(names) != len(maps)
        or height * shape[2] != width * shape[1]
    ):
        raise PnfsError(
            f"score maps of shape {shape} with {len(names)} names do not fit a crop {crop.shape[:2]}"
        )
    maps = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    stride = height / shape[1]
    brightest = (float(maps.max()) if highest is None else highest) or 1.0
    pictures, captions = [crop], ["crop"]
    for name, score_map in zip(names, maps, strict=True):
        picture, scale, offset = letterbox(_heat_over(crop, score_map / brightest, stride), cell)
        if highest is None:
            y, x = np.unravel_index(score_map.argmax(), score_map.shape)
            ring(picture, np.array([x, y]) * stride * scale + offset, min(cell) / 16)
        pictures.append(picture)
        captions.append(f"{name} {score_map.max():.2f}" if highest is None else name)
    return contact_sheet(pictures, captions=captions, columns=columns, cell=cell)


def _heat_over(crop: Picture, level: Float[np.ndarray, "h w"], stride: float) -> Picture:
    """The crop in grey under a map from 0 to 1 in colours."""
    matrix = np.array([[stride, 0.0, 0.0], [0.0, stride, 0.0]])
    level = cv2.warpAffine(level, matrix, crop.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    heat = matplotlib.colormaps["inferno"](np.clip(level, 0, 1))[..., :3] * 255
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None] * 0.75
    strength = np.sqrt(np.clip(level, 0, 1))[..., None] * 0.85
    return np.rint(grey * (1 - strength) + heat * strength).astype(np.uint8)

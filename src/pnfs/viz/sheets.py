"""Contact sheets: images in a grid, predicted poses beside their labels, score maps as heat."""

import math
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pnfs.body import Skeleton
from pnfs.viz.canvas import (
    FILLER,
    LABEL_COLOUR,
    OUTLINE_COLOUR,
    PLATE,
    PLATE_TEXT,
    Colour,
    Picture,
    blank,
    dot,
    font,
    letterbox,
    line,
    ring,
    shortened,
    text_size,
    write,
)
from pnfs.viz.poses import LowScored, Pose, dot_radius, limb_width
from pnfs.viz.style import SIDE_COLOURS, Side, checked_rgb

_GAP = 4
_PAGE: Colour = (255, 255, 255)
_TEXT: Colour = (40, 40, 40)


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    *,
    captions: Sequence[str] | None = None,
    columns: int = 8,
    cell: tuple[int, int] = (192, 192),
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
    if not len(images):
        raise ValueError("a contact sheet needs at least one image")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    if columns < 1 or min(cell) < 1:
        raise ValueError(f"a sheet of {columns} columns and cells of {cell} px cannot be drawn")
    (height, width), size = cell, text_size(cell)
    columns = min(columns, len(images))
    strip = 0 if captions is None else math.ceil(1.5 * size)
    row_height = height + strip + _GAP
    rows = math.ceil(len(images) / columns)
    page = blank(rows * row_height + _GAP, columns * (width + _GAP) + _GAP, _PAGE)
    texts = []
    for index, image in enumerate(images):
        top = _GAP + index // columns * row_height
        left = _GAP + index % columns * (width + _GAP)
        picture, _, _ = letterbox(checked_rgb(image, f"image {index}"), cell)
        page[top : top + height, left : left + width] = picture
        if captions is not None:
            caption = shortened(captions[index], width, size)
            texts.append((caption, (left + 1, top + height + strip // 2)))
    if texts:
        write(page, texts, size, _TEXT)
    return page


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
    cell: tuple[int, int] = (192, 192),
    score_threshold: float = 0.2,
    low_scored: LowScored = "hollow",
) -> UInt8[np.ndarray, "H W 3"]:
    """Predictions on their crops, with the labels and a line from each joint to its label.

    Args:
        crops: N images, RGB.
        predicted: x, y in px of the crops.
        skeleton: Whose joints they are.
        scores: Scores of the predicted joints; see `draw_pose`.
        target: The labels, in px of the crops; None shows the predictions alone.
        labelled: Joints that have a label; None if all have.
        captions: One line a crop.
        columns: Crops in a row.
        cell: (height, width) of a crop on the sheet, in px.
        score_threshold: Joints that score less are low-scored.
        low_scored: How those are drawn; see `draw_pose`.

    Raises:
        ValueError: Arrays whose shapes do not fit together, or a drawn joint that is not finite.
    """
    shapes = {"predicted": predicted, "scores": scores, "target": target, "labelled": labelled}
    for name, array in shapes.items():
        if array is not None and len(array) != len(crops):
            raise ValueError(f"{len(array)} rows of {name} for {len(crops)} crops")
    pictures = []
    for n, crop in enumerate(crops):
        picture, scale, offset = letterbox(checked_rgb(crop, f"crop {n}"), cell)
        joint_scores = None if scores is None else scores[n]
        pose = Pose.of(predicted[n], skeleton, joint_scores, None, score_threshold, low_scored)
        labels = None
        if target is not None:
            known = None if labelled is None else labelled[n]
            labels = Pose.of(target[n], skeleton, shown=known).moved(scale, offset)
        _draw_with_labels(picture, pose.moved(scale, offset), labels)
        pictures.append(picture)
    sheet = contact_sheet(pictures, captions=captions, columns=columns, cell=cell)
    hollow = scores is not None and low_scored == "hollow"
    threshold = f"score below {score_threshold:g}" if hollow else None
    legend = _legend(sheet.shape[1], text_size(cell), target is not None, threshold)
    return np.concatenate([sheet, legend])


def _draw_with_labels(picture: Picture, pose: Pose, labels: Pose | None) -> None:
    """Error lines lie under the joints, labels on them: a label that was hit is a joint's bright core."""
    width = limb_width(picture)
    thin = max(1, width // 3)
    pose.draw_limbs(picture, width)
    if labels is not None:
        for k in np.flatnonzero(labels.shown & pose.shown):
            for colour, its_width in ((OUTLINE_COLOUR, thin + 2), (LABEL_COLOUR, thin)):
                line(picture, pose.joints[k], labels.joints[k], colour, its_width)
    pose.draw_joints(picture, width)
    if labels is not None:
        for place in labels.joints[labels.shown]:
            dot(picture, place, dot_radius(width) / 2, LABEL_COLOUR)


def score_map_sheet(
    crop: UInt8[np.ndarray, "H W 3"],
    maps: Float[np.ndarray, "J h w"],
    names: Sequence[str],
    *,
    columns: int = 8,
    cell: tuple[int, int] = (192, 192),
    highest: float | None = None,
    mark_maximum: bool = True,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The score maps of one person as heat over the crop, each with its maximum in the caption.

    A pixel (x, y) of a map lies on (x, y) × stride of the crop; a ring marks the maximum.

    Args:
        crop: RGB.
        maps: Score maps of parts or joints; the stride is H / h.
        names: One per map.
        columns: Maps in a row; the bare crop comes first.
        cell: (height, width) of a crop on the sheet, in px.
        highest: Score of the brightest colour; None takes the highest of all maps, so that maps
            can be compared.
        mark_maximum: Draw the ring and write the maximum; maps of several joints have no one place.

    Raises:
        ValueError: No maps, maps of another shape than the crop, or another number of names.
    """
    crop, maps = checked_rgb(crop, "crop"), np.asarray(maps, np.float32)
    if maps.ndim != 3 or not maps.size or len(names) != len(maps):
        raise ValueError(f"{len(names)} names for score maps of shape {maps.shape}")
    height, width = crop.shape[:2]
    if height * maps.shape[2] != width * maps.shape[1]:
        raise ValueError(f"score maps of shape {maps.shape} do not cover a crop {crop.shape[:2]}")
    maps = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(maps.max()) if highest is None else highest
    stride = height / maps.shape[1]
    pictures, captions = [letterbox(crop, cell)[0]], ["crop"]
    for name, score_map in zip(names, maps, strict=True):
        heat = _heat_over(crop, score_map, stride, top if top > 0 else 1.0)
        picture, scale, offset = letterbox(heat, cell)
        if mark_maximum:
            y, x = np.unravel_index(score_map.argmax(), score_map.shape)
            peak = np.array([x, y]) * stride * scale + offset
            ring(picture, peak, min(cell) / 16, LABEL_COLOUR)
        pictures.append(picture)
        captions.append(f"{name} {score_map.max():.2f}" if mark_maximum else name)
    return contact_sheet(pictures, captions=captions, columns=columns, cell=cell)


def _heat_over(
    crop: Picture, score_map: Float[np.ndarray, "h w"], stride: float, highest: float
) -> Picture:
    matrix = np.array([[stride, 0.0, 0.0], [0.0, stride, 0.0]])
    level = cv2.warpAffine(score_map, matrix, crop.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    level = np.clip(level / highest, 0, 1)
    heat = matplotlib.colormaps["inferno"](level)[..., :3] * 255
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None] * 0.75
    strength = np.sqrt(level)[..., None] * 0.85
    return np.rint(grey * (1 - strength) + heat * strength).astype(np.uint8)


def _legend(width: int, size: int, with_labels: bool, low_scored: str | None) -> Picture:
    """A strip that explains the colours; its entries take as many lines as they need."""
    entries = [_entry(text, SIDE_COLOURS[side], size) for side, text in _SIDE_TEXTS.items()]
    if with_labels:
        entries.append(_entry("label and error", LABEL_COLOUR, size, error=True))
    if low_scored is not None:
        entries.append(_entry(low_scored, FILLER, size, hollow=True))
    lines: list[list[Picture]] = [[]]
    for entry in entries:
        if lines[-1] and sum(each.shape[1] for each in [*lines[-1], entry]) > width:
            lines.append([])
        lines[-1].append(entry)
    legend = blank(2 * size * len(lines), width, PLATE)
    for row, members in enumerate(lines):
        strip = np.concatenate(members, axis=1)[:, :width]
        legend[2 * size * row : 2 * size * (row + 1), : strip.shape[1]] = strip
    return legend


_SIDE_TEXTS: dict[Side, str] = {
    "left": "person's left",
    "right": "person's right",
    "centre": "centre",
}


def _entry(
    text: str, colour: Colour, size: int, *, hollow: bool = False, error: bool = False
) -> Picture:
    """A limb with its joints, or the line of an error with its label, and the text."""
    strip = blank(2 * size, math.ceil(font(size).getlength(text)) + 3 * size, PLATE)
    start, end = np.array([size, size], float), np.array([2.2 * size, size])
    width = max(1, size // 5)
    line(strip, start, end, colour, 1 if error else max(1, width // 2) if hollow else width)
    for place in (end,) if error else (start, end):
        radius = dot_radius(width) * (0.7 if error else 1)
        dot(strip, place, radius, colour, hollow=hollow)
    write(strip, [(text, (3 * size, size))], size, PLATE_TEXT)
    return strip

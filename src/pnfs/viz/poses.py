"""Pictures of poses: skeletons over photographs, contact sheets and overlays of score maps."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8
from PIL import Image, ImageDraw, ImageFont

from pnfs.body import Skeleton

Colour = tuple[int, int, int]
Side = Literal["left", "right", "centre"]
LowScored = Literal["hollow", "omit"]

SIDE_COLOURS: dict[Side, Colour] = {
    "left": (86, 180, 233),
    "right": (240, 120, 20),
    "centre": (240, 228, 66),
}
"""RGB; blue, orange and yellow stay apart under the common kinds of colour blindness."""
LABEL_COLOUR: Colour = (255, 255, 255)
OUTLINE_COLOUR: Colour = (20, 20, 20)

_PAGE: Colour = (255, 255, 255)
_FILLER: Colour = (226, 226, 226)
_TEXT: Colour = (40, 40, 40)
_LEGEND_PAGE: Colour = (56, 56, 56)
_LEGEND_TEXT: Colour = (240, 240, 240)
_GAP = 4

_SHIFT = 6
"""Fractional bits of the coordinates handed to OpenCV: 1/64 pixel."""
_FAR = 1e5
"""OpenCV's fixed-point coordinates overflow far outside the image; nothing is drawn out there."""
_UNIT_CIRCLE = np.stack([f(np.arange(32) * (math.tau / 32)) for f in (np.cos, np.sin)], axis=-1)
_SUFFIXES = (".png", ".jpg", ".jpeg")


def joint_sides(skeleton: Skeleton) -> tuple[Side, ...]:
    """For each joint the person's side: pairs are (left, right), unpaired joints "centre"."""
    left = {pair[0] for pair in skeleton.flip_pairs}
    right = {pair[1] for pair in skeleton.flip_pairs}
    return tuple(
        "left" if joint in left else "right" if joint in right else "centre"
        for joint in skeleton.joints
    )


def draw_pose(
    image: UInt8[np.ndarray, "H W 3"],
    joints: Float[np.ndarray, "K 2"],
    *,
    skeleton: Skeleton,
    scores: Float[np.ndarray, " K"] | None = None,
    shown: Bool[np.ndarray, " K"] | None = None,
    line_width: int | None = None,
    score_threshold: float = 0.2,
    low_scored: LowScored = "hollow",
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of the image with a skeleton on it, coloured by the person's side.

    A limb has the side of its ends; one that touches both sides or none is "centre".

    Args:
        image: RGB.
        joints: x, y in px of the image, 0 being the centre of the first pixel.
        skeleton: Whose joints they are.
        scores: One per joint; None takes all joints as certain.
        shown: Joints to draw; None draws all.
        line_width: Of the limbs, in px; None takes 1/70 of the image's shorter side.
        score_threshold: Joints that score less are low-scored.
        low_scored: "hollow" draws them as dark dots with a coloured rim and thin limbs, "omit"
            leaves them out.

    Raises:
        ValueError: An array of the wrong shape or type, or a shown joint that is not finite.
    """
    canvas = _rgb(image, "image").copy()
    joints, shown = _checked_joints(joints, shown, skeleton)
    certain = _certain(scores, score_threshold, skeleton)
    if low_scored == "omit":
        shown = shown & certain
    width = _line_width(canvas) if line_width is None else max(1, line_width)
    _draw_limbs(canvas, joints, shown, certain, skeleton, width)
    _draw_joints(canvas, joints, shown, certain, skeleton, width)
    return canvas


def draw_persons(
    image: UInt8[np.ndarray, "H W 3"],
    joints: Float[np.ndarray, "N K 2"],
    *,
    skeleton: Skeleton,
    scores: Float[np.ndarray, "N K"],
    person_scores: Float[np.ndarray, " N"],
    boxes: Float[np.ndarray, "N 4"],
    draw_boxes: bool = True,
    score_threshold: float = 0.2,
    low_scored: LowScored = "hollow",
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of the image with all its persons, the surest on top, each with its score.

    Lines are as wide as the person is large; see `draw_pose` for colours and hollow joints.

    Args:
        image: RGB.
        joints: x, y in px of the image.
        skeleton: Whose joints they are.
        scores: Of the joints.
        person_scores: Of the persons, written at their boxes.
        boxes: x, y, width, height in px.
        draw_boxes: Whether the boxes are drawn too.
        score_threshold: Joints that score less are low-scored.
        low_scored: How those are drawn; see `draw_pose`.

    Raises:
        ValueError: Arrays whose shapes do not fit together, or a joint that is not finite.
    """
    canvas = _rgb(image, "image").copy()
    lengths = {len(joints), len(scores), len(person_scores), len(boxes)}
    if len(lengths) != 1:
        raise ValueError(f"joints, scores, person_scores and boxes have {sorted(lengths)} rows")
    widest = _line_width(canvas)
    for n in np.argsort(person_scores, kind="stable"):
        size = math.sqrt(max(1.0, boxes[n][2] * boxes[n][3]))
        width = int(np.clip(round(size / 60), 1, widest))
        if draw_boxes:
            _box(canvas, boxes[n], max(1, width // 5))
        canvas = draw_pose(
            canvas,
            joints[n],
            skeleton=skeleton,
            scores=scores[n],
            line_width=width,
            score_threshold=score_threshold,
            low_scored=low_scored,
        )
    for n in np.argsort(person_scores, kind="stable"):
        size = math.sqrt(max(1.0, boxes[n][2] * boxes[n][3]))
        _label(canvas, f"{person_scores[n]:.2f}", boxes[n][:2], int(np.clip(size / 16, 9, 24)))
    return canvas


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
    (height, width), size = cell, _text_size(cell)
    columns = min(columns, len(images))
    strip = 0 if captions is None else math.ceil(1.5 * size)
    row_height = height + strip + _GAP
    rows = math.ceil(len(images) / columns)
    page = _blank(rows * row_height + _GAP, columns * (width + _GAP) + _GAP, _PAGE)
    for index, image in enumerate(images):
        top = _GAP + index // columns * row_height
        left = _GAP + index % columns * (width + _GAP)
        picture, _, _ = _letterbox(_rgb(image, f"image {index}"), cell)
        page[top : top + height, left : left + width] = picture
        if captions is not None:
            caption = _shortened(captions[index], width, size)
            _write(page, caption, (left + 1, top + height + strip // 2), size, _TEXT)
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
        scores: Of the predicted joints; see `draw_pose`.
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
    pictures = [
        _pose_cell(
            _rgb(crop, f"crop {n}"),
            predicted[n],
            skeleton,
            _certain(None if scores is None else scores[n], score_threshold, skeleton),
            None if target is None else target[n],
            None if labelled is None else labelled[n],
            low_scored,
            cell,
        )
        for n, crop in enumerate(crops)
    ]
    sheet = contact_sheet(pictures, captions=captions, columns=columns, cell=cell)
    hollow = scores is not None and low_scored == "hollow"
    threshold = f"score below {score_threshold:g}" if hollow else None
    legend = _legend(sheet.shape[1], _text_size(cell), target is not None, threshold)
    return np.concatenate([sheet, legend])


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
    crop, maps = _rgb(crop, "crop"), np.asarray(maps, np.float32)
    if maps.ndim != 3 or not maps.size or len(names) != len(maps):
        raise ValueError(f"{len(names)} names for score maps of shape {maps.shape}")
    height, width = crop.shape[:2]
    if height * maps.shape[2] != width * maps.shape[1]:
        raise ValueError(f"score maps of shape {maps.shape} do not cover a crop {crop.shape[:2]}")
    maps = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(maps.max()) if highest is None else highest
    top = top if top > 0 else 1.0
    stride = height / maps.shape[1]
    pictures, captions = [_letterbox(crop, cell)[0]], ["crop"]
    for name, score_map in zip(names, maps, strict=True):
        heat = _heat_over(crop, score_map, stride, top)
        picture, scale, offset = _letterbox(heat, cell)
        if mark_maximum:
            y, x = np.unravel_index(score_map.argmax(), score_map.shape)
            peak = np.array([x, y]) * stride * scale + offset
            _ring(picture, peak, min(cell) / 16, LABEL_COLOUR)
        pictures.append(picture)
        captions.append(f"{name} {score_map.max():.2f}" if mark_maximum else name)
    return contact_sheet(pictures, captions=captions, columns=columns, cell=cell)


def save_image(path: Path | str, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes an RGB image as PNG or JPEG (quality 95), by the suffix; makes the folders it needs.

    Raises:
        ValueError: Another suffix, or not an RGB image.
        OSError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{path}: an image is saved as {', '.join(_SUFFIXES)}")
    pixels = cv2.cvtColor(_rgb(image, "image"), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(path.suffix.lower(), pixels)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise OSError(f"{path}: the image cannot be written: {error.strerror or error}") from None


def _rgb(image: UInt8[np.ndarray, "H W 3"], what: str) -> UInt8[np.ndarray, "H W 3"]:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"{what} has shape {image.shape} and type {image.dtype}; it must be RGB, uint8 (H, W, 3)"
        )
    return np.ascontiguousarray(image)


def _column(values: np.ndarray, skeleton: Skeleton, what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (len(skeleton),):
        raise ValueError(
            f"{what} has shape {values.shape}, skeleton {skeleton.name} needs ({len(skeleton)},)"
        )
    return values


def _checked_joints(
    joints: Float[np.ndarray, "K 2"], shown: Bool[np.ndarray, " K"] | None, skeleton: Skeleton
) -> tuple[Float[np.ndarray, "K 2"], Bool[np.ndarray, " K"]]:
    joints = np.asarray(joints, np.float64)
    if joints.shape != (len(skeleton), 2):
        raise ValueError(
            f"joints have shape {joints.shape}, skeleton {skeleton.name} needs ({len(skeleton)}, 2)"
        )
    if shown is None:
        shown = np.ones(len(skeleton), bool)
    shown = _column(shown, skeleton, "the mask of joints").astype(bool)
    wrong = np.flatnonzero(shown & ~np.isfinite(joints).all(-1))
    if len(wrong):
        raise ValueError(
            f"joint {skeleton.joints[wrong[0]]} is at {joints[wrong[0]].tolist()}; a joint without "
            "a place must be masked"
        )
    return joints, shown


def _certain(
    scores: Float[np.ndarray, " K"] | None, threshold: float, skeleton: Skeleton
) -> Bool[np.ndarray, " K"]:
    if scores is None:
        return np.ones(len(skeleton), bool)
    return _column(scores, skeleton, "the scores") >= threshold


def _limb_side(a: Side, b: Side) -> Side:
    if "centre" in (a, b):
        return b if a == "centre" else a
    return a if a == b else "centre"


def _line_width(image: UInt8[np.ndarray, "H W 3"]) -> int:
    return max(1, round(min(image.shape[:2]) / 70))


def _dot_radius(line_width: int) -> float:
    return 0.6 + 0.8 * line_width


def _fixed(point: Float[np.ndarray, " 2"]) -> tuple[int, int]:
    x, y = np.rint(np.clip(point, -_FAR, _FAR) * 2**_SHIFT).astype(int).tolist()
    return x, y


def _line(
    canvas: UInt8[np.ndarray, "H W 3"],
    start: Float[np.ndarray, " 2"],
    end: Float[np.ndarray, " 2"],
    colour: Colour,
    width: int,
) -> None:
    cv2.line(canvas, _fixed(start), _fixed(end), colour, width, cv2.LINE_AA, _SHIFT)


def _box(canvas: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"], width: int) -> None:
    x, y, box_width, box_height = np.asarray(box, np.float64)
    corners = np.array(
        [(x, y), (x + box_width, y), (x + box_width, y + box_height), (x, y + box_height)]
    )
    # A box from edge to edge has its border half a pixel before the centre of its first pixel.
    points = np.rint(np.clip(corners - 0.5, -_FAR, _FAR) * 2**_SHIFT).astype(np.int32)[:, None]
    for colour, line_width in ((OUTLINE_COLOUR, width + 2), (LABEL_COLOUR, width)):
        cv2.polylines(canvas, [points], True, colour, line_width, cv2.LINE_AA, _SHIFT)


def _label(
    canvas: UInt8[np.ndarray, "H W 3"], text: str, corner: Float[np.ndarray, " 2"], size: int
) -> None:
    """Text on a dark plate, above the corner where there is room, in any case inside the image."""
    height, width = canvas.shape[:2]
    plate_width, plate_height = math.ceil(_font(size).getlength(text)) + 4, size + 4
    left = int(np.clip(corner[0], 0, max(0, width - plate_width)))
    top = int(np.clip(corner[1] - plate_height, 0, max(0, height - plate_height)))
    plate = canvas[top : top + plate_height, left : left + plate_width]
    plate[...] = _LEGEND_PAGE
    # A copy of the plate alone: converting a large photograph for each label takes long.
    lettered = plate.copy()
    _write(lettered, text, (2, plate_height // 2), size, _LEGEND_TEXT)
    plate[...] = lettered


def _circle(center: Float[np.ndarray, " 2"], radius: float) -> Int32[np.ndarray, "32 1 2"]:
    """A polygon in OpenCV's fixed-point px; its own small circles are diamonds."""
    points = np.clip(center, -_FAR, _FAR) + radius * _UNIT_CIRCLE
    return np.rint(points * 2**_SHIFT).astype(np.int32)[:, None]


def _disk(
    canvas: UInt8[np.ndarray, "H W 3"],
    center: Float[np.ndarray, " 2"],
    radius: float,
    colour: Colour,
) -> None:
    # OpenCV draws half a pixel of smoothed border around a filled polygon.
    points = _circle(center, max(radius - 0.5, 0.25))
    cv2.fillConvexPoly(canvas, points, colour, cv2.LINE_AA, _SHIFT)


def _dot(
    canvas: UInt8[np.ndarray, "H W 3"],
    center: Float[np.ndarray, " 2"],
    radius: float,
    colour: Colour,
    *,
    hollow: bool = False,
) -> None:
    """A disk with a thin dark outline, and with a dark core if `hollow`."""
    _disk(canvas, center, radius + max(0.8, radius / 6), OUTLINE_COLOUR)
    _disk(canvas, center, radius, colour)
    if hollow:
        _disk(canvas, center, 0.6 * radius, OUTLINE_COLOUR)


def _ring(
    canvas: UInt8[np.ndarray, "H W 3"],
    center: Float[np.ndarray, " 2"],
    radius: float,
    colour: Colour,
) -> None:
    points = _circle(center, radius)
    for ring_colour, width in ((OUTLINE_COLOUR, 3), (colour, 1)):
        cv2.polylines(canvas, [points], True, ring_colour, width, cv2.LINE_AA, _SHIFT)


def _draw_limbs(
    canvas: UInt8[np.ndarray, "H W 3"],
    joints: Float[np.ndarray, "K 2"],
    shown: Bool[np.ndarray, " K"],
    certain: Bool[np.ndarray, " K"],
    skeleton: Skeleton,
    width: int,
) -> None:
    sides = joint_sides(skeleton)
    limbs = []
    for a, b in map(skeleton.indices, skeleton.limbs):
        if shown[a] and shown[b]:
            limb_width = width if certain[a] and certain[b] else max(1, width // 2)
            colour = SIDE_COLOURS[_limb_side(sides[a], sides[b])]
            limbs.append((joints[a], joints[b], colour, limb_width))
    # All outlines come first, so that none cuts through a limb drawn earlier.
    for start, end, _, limb_width in limbs:
        _line(canvas, start, end, OUTLINE_COLOUR, limb_width + 2)
    for start, end, colour, limb_width in limbs:
        _line(canvas, start, end, colour, limb_width)


def _draw_joints(
    canvas: UInt8[np.ndarray, "H W 3"],
    joints: Float[np.ndarray, "K 2"],
    shown: Bool[np.ndarray, " K"],
    certain: Bool[np.ndarray, " K"],
    skeleton: Skeleton,
    width: int,
) -> None:
    sides = joint_sides(skeleton)
    for k in np.flatnonzero(shown):
        _dot(canvas, joints[k], _dot_radius(width), SIDE_COLOURS[sides[k]], hollow=not certain[k])


def _pose_cell(
    crop: UInt8[np.ndarray, "H W 3"],
    predicted: Float[np.ndarray, "K 2"],
    skeleton: Skeleton,
    certain: Bool[np.ndarray, " K"],
    target: Float[np.ndarray, "K 2"] | None,
    labelled: Bool[np.ndarray, " K"] | None,
    low_scored: LowScored,
    cell: tuple[int, int],
) -> UInt8[np.ndarray, "_ _ 3"]:
    """One cell of `pose_sheet`."""
    picture, scale, offset = _letterbox(crop, cell)
    shown = certain if low_scored == "omit" else None
    predicted, shown = _checked_joints(predicted, shown, skeleton)
    predicted = predicted * scale + offset
    width = _line_width(picture)
    error_width = max(1, width // 3)
    _draw_limbs(picture, predicted, shown, certain, skeleton, width)
    # Error lines lie under the joints, labels on them: a label that was hit is a joint's bright core.
    labels = np.zeros((0, 2))
    if target is not None:
        target, known = _checked_joints(target, labelled, skeleton)
        target = target * scale + offset
        for k in np.flatnonzero(known & shown):
            _line(picture, predicted[k], target[k], OUTLINE_COLOUR, error_width + 2)
            _line(picture, predicted[k], target[k], LABEL_COLOUR, error_width)
        labels = target[known]
    _draw_joints(picture, predicted, shown, certain, skeleton, width)
    for place in labels:
        _dot(picture, place, _dot_radius(width) / 2, LABEL_COLOUR)
    return picture


def _heat_over(
    crop: UInt8[np.ndarray, "H W 3"],
    score_map: Float[np.ndarray, "h w"],
    stride: float,
    highest: float,
) -> UInt8[np.ndarray, "H W 3"]:
    matrix = np.array([[stride, 0.0, 0.0], [0.0, stride, 0.0]])
    level = cv2.warpAffine(
        score_map,
        matrix,
        crop.shape[1::-1],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    level = np.clip(level / highest, 0, 1)
    heat = matplotlib.colormaps["inferno"](level)[..., :3] * 255
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None] * 0.75
    strength = np.sqrt(level)[..., None] * 0.85
    return np.rint(grey * (1 - strength) + heat * strength).astype(np.uint8)


def _blank(height: int, width: int, colour: Colour) -> UInt8[np.ndarray, "H W 3"]:
    return np.full((height, width, 3), colour, np.uint8)


def _letterbox(
    image: UInt8[np.ndarray, "H W 3"], cell: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "_ _ 3"], Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """The image as large as fits a cell, centred; cell px = scale * image px + offset (x, y)."""
    size = np.array(image.shape[1::-1])
    room = np.array(cell[::-1])
    fitted = np.maximum(1, np.rint(size * (room / size).min())).astype(int)
    scale = fitted / size
    shrinks = bool((scale < 1).any())
    resized = cv2.resize(
        image, tuple(fitted.tolist()), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    left, top = ((room - fitted) // 2).tolist()
    picture = _blank(*cell, _FILLER)
    picture[top : top + fitted[1], left : left + fitted[0]] = resized
    # OpenCV's resize aligns the edges of the two grids, not the centres of their first pixels.
    return picture, scale, (scale - 1) / 2 + (left, top)


def _legend(
    width: int, size: int, with_labels: bool, low_scored: str | None
) -> UInt8[np.ndarray, "_ W 3"]:
    """A strip that explains the colours; its entries take as many lines as they need."""
    entries: list[tuple[str, Colour, bool]] = [
        ("person's left", SIDE_COLOURS["left"], False),
        ("person's right", SIDE_COLOURS["right"], False),
        ("centre", SIDE_COLOURS["centre"], False),
    ]
    if with_labels:
        entries.append(("label and error", LABEL_COLOUR, False))
    if low_scored is not None:
        entries.append((low_scored, _FILLER, True))
    mark, line_height = 2 * size, 2 * size
    places, x, row = [], size, 0
    for text, _, _ in entries:
        length = math.ceil(_font(size).getlength(text)) + mark + size
        if x > size and x + length > width:
            x, row = size, row + 1
        places.append((x, row * line_height + size))
        x += length
    strip = _blank((row + 1) * line_height, width, _LEGEND_PAGE)
    line_width = max(1, size // 5)
    for (text, colour, hollow), (x, y) in zip(entries, places, strict=True):
        start, end = np.array([x, y], float), np.array([x + 1.2 * size, y])
        if colour == LABEL_COLOUR:
            _line(strip, start, end, colour, 1)
            _dot(strip, end, 0.7 * _dot_radius(line_width), colour)
        else:
            _line(strip, start, end, colour, max(1, line_width // 2) if hollow else line_width)
            for place in (start, end):
                _dot(strip, place, _dot_radius(line_width), colour, hollow=hollow)
        _write(strip, text, (x + mark, y), size, _LEGEND_TEXT)
    return strip


def _text_size(cell: tuple[int, int]) -> int:
    return int(np.clip(min(cell) // 15, 9, 24))


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Comes with matplotlib, so that a sheet looks the same everywhere; OpenCV 4 writes ASCII only.
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size
    )


def _shortened(text: str, width: int, size: int) -> str:
    """The text in one line, cut with an ellipsis where it is wider than `width` px."""
    font, text = _font(size), " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _write(
    canvas: UInt8[np.ndarray, "H W 3"],
    text: str,
    left_middle: tuple[int, int],
    size: int,
    colour: Colour,
) -> None:
    picture = Image.fromarray(canvas)
    ImageDraw.Draw(picture).text(left_middle, text, colour, _font(size), anchor="lm")
    canvas[...] = np.asarray(picture)

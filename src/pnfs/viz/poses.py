"""Skeletons over photographs, coloured by the person's side, exact to a fraction of a pixel; sheets of them."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from jaxtyping import Float, Int32, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pnfs.body import Skeleton
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.viz.style import SIDE_COLOURS, Side

Colour = tuple[int, int, int]
Picture = UInt8[np.ndarray, "H W 3"]
Points = Float[np.ndarray, "N 2"]

LOW_SCORE = 0.2
"""Joints that score less are drawn as low-scored."""
LABEL_COLOUR: Colour = (255, 255, 255)
OUTLINE_COLOUR: Colour = (20, 20, 20)
FILLER: Colour = (226, 226, 226)
PLATE: Colour = (56, 56, 56)
# Dark enough for bright type: Okabe and Ito's blue, vermilion and green, two purples, brown.
_ID_COLOURS: tuple[Colour, ...] = (
    (0, 114, 178), (176, 70, 0), (0, 120, 88), (150, 70, 120), (92, 60, 160), (110, 84, 20),
)  # fmt: skip
UNIT_CIRCLE = np.stack([f(np.arange(32) * (math.tau / 32)) for f in (np.cos, np.sin)], axis=-1)
_SHIFT = 6
"""Fractional bits of the coordinates handed to OpenCV: 1/64 pixel."""
CELL = (192, 192)
"""(height, width) of an image on a sheet, px."""
_GAP = 4


def joint_sides(skeleton: Skeleton) -> tuple[Side, ...]:
    """For each joint the person's side: pairs are (left, right), unpaired joints "centre"."""
    sides: dict[str, Side] = {}
    for left, right in skeleton.flip_pairs:
        sides |= {left: "left", right: "right"}
    return tuple(sides.get(joint, "centre") for joint in skeleton.joints)


def draw_persons(
    image: UInt8[np.ndarray, "H W 3"],
    joints: Float[np.ndarray, "N K 2"],
    *,
    skeleton: Skeleton,
    scores: Float[np.ndarray, "N K"],
    person_scores: Float[np.ndarray, " N"],
    boxes: Float[np.ndarray, "N 4"],
    ids: Int64[np.ndarray, " N"] | None = None,
    draw_boxes: bool = True,
    score_threshold: float = LOW_SCORE,
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of the RGB image with all its persons, the surest on top, each with its score at its box.

    Joints are x, y, boxes x, y, width, height in px of the image. Lines are as wide as the person is large; see
    `draw_pose` for colours and hollow joints. With `ids` each person's number stands before the score, and box and
    plate have a colour by it.
    """
    canvas, order = np.array(image, order="C"), np.argsort(person_scores, kind="stable")
    sizes = [math.sqrt(max(1.0, place[2] * place[3])) for place in boxes]
    for n in order:
        width = int(np.clip(round(sizes[n] / 60), 1, _limb_width(canvas)))
        if draw_boxes:
            low, size = np.asarray(boxes[n], np.float64).reshape(2, 2)
            # A box from edge to edge has its border half a pixel before the centre of its first pixel.
            corners = low - 0.5 + size * [(0, 0), (1, 0), (1, 1), (0, 1)]
            colour = LABEL_COLOUR if ids is None else _ID_COLOURS[ids[n] % len(_ID_COLOURS)]
            outlined(canvas, corners, max(1, width // 5), colour, closed=True)
        draw_pose(canvas, joints[n], skeleton, scores=scores[n], threshold=score_threshold, width=width)
    for n in order:  # On a plate, above the box where there is room, in any case inside the image.
        size = int(np.clip(sizes[n] / 16, 9, 24))
        text = f"{'' if ids is None else f'#{ids[n]}  '}{person_scores[n]:.2f}"
        extent = np.array([math.ceil(font(size).getlength(text)) + 4, size + 4])
        last = np.maximum(0, np.array(canvas.shape[1::-1]) - extent)
        left, top = np.clip(boxes[n][:2] - [0, size + 4], 0, last).astype(int).tolist()
        room = canvas[top : top + size + 4, left : left + extent[0]]
        room[...] = PLATE if ids is None else _ID_COLOURS[ids[n] % len(_ID_COLOURS)]
        write(room, text, (2, size // 2 + 2), (240, 240, 240), size)
    return canvas


def _limb_width(image: Picture) -> int:
    return max(1, round(min(image.shape[:2]) / 70))


def draw_pose(
    canvas: Picture,
    joints: Float[np.ndarray, "K 2"],
    skeleton: Skeleton,
    *,
    scores: Float[np.ndarray, " K"] | None = None,
    labels: Float[np.ndarray, "K 2"] | None = None,
    threshold: float = LOW_SCORE,
    width: int | None = None,
) -> None:
    """Draws a skeleton onto the canvas, with labels a line from each joint to its label.

    A limb has the side of its ends; one that touches both sides or none is "centre". Joints below the threshold
    are dark dots with a coloured rim, their limbs thin. Joints of score 0, and joints and labels that are nan, are
    not drawn. A label that was hit is a joint's bright core. Joints and labels are x, y in px, 0 being the centre
    of the first pixel; limbs are `width` px wide, None suits the canvas.
    """
    joints, width = np.asarray(joints, np.float64), width or _limb_width(canvas)
    scores = np.ones(len(skeleton)) if scores is None else np.asarray(scores)
    sides, sure = joint_sides(skeleton), scores >= threshold
    shown = np.isfinite(joints).all(-1) & (scores != 0)
    limbs = [(a, b) for a, b in map(skeleton.indices, skeleton.limbs) if shown[a] and shown[b]]
    # All outlines come first, so that none cuts through a limb drawn earlier.
    for outline in (True, False):
        for a, b in limbs:
            # A limb has the side of its ends, unless they are on different ones.
            ends: set[Side] = {sides[a], sides[b]}
            ends.discard("centre")
            colour = SIDE_COLOURS[ends.pop() if len(ends) == 1 else "centre"]
            own = width if sure[a] and sure[b] else max(1, width // 2)
            look = (OUTLINE_COLOUR, own + 2) if outline else (colour, own)
            cv2.polylines(canvas, [_fixed(joints[[a, b]])], False, *look, cv2.LINE_AA, _SHIFT)
    known = np.zeros(len(skeleton), bool) if labels is None else np.isfinite(labels).all(-1)
    targets = joints if labels is None else labels
    for k in np.flatnonzero(known & shown):
        outlined(canvas, np.stack([joints[k], targets[k]]), max(1, width // 3))
    radius = 0.6 + 0.8 * width
    for k in np.flatnonzero(shown):
        dot(canvas, joints[k], radius, SIDE_COLOURS[sides[k]], hollow=not sure[k])
    for place in targets[known]:
        dot(canvas, place, radius / 2, LABEL_COLOUR)


def outlined(
    canvas: Picture, points: Points, width: int, colour: Colour = LABEL_COLOUR, closed: bool = False
) -> None:
    """A bright line through the points with a dark outline, `closed` to a frame."""
    for its_colour, its_width in ((OUTLINE_COLOUR, width + 2), (colour, width)):
        cv2.polylines(canvas, [_fixed(points)], closed, its_colour, its_width, cv2.LINE_AA, _SHIFT)


def dot(canvas: Picture, center: np.ndarray, radius: float, colour: Colour, hollow: bool = False) -> None:
    """A disk with a thin dark outline, and with a dark core if `hollow`; the centre is x, y in px."""
    disks = [(radius + max(0.8, radius / 6), OUTLINE_COLOUR), (radius, colour)]
    for size, its_colour in [*disks, (0.6 * radius, OUTLINE_COLOUR)][: 3 if hollow else 2]:
        # A polygon, since OpenCV's own small circles are diamonds; it has half a pixel of smoothed border.
        points = center + max(size - 0.5, 0.25) * UNIT_CIRCLE
        cv2.fillConvexPoly(canvas, _fixed(points), its_colour, cv2.LINE_AA, _SHIFT)


def _fixed(points: Points) -> Int32[np.ndarray, "N 1 2"]:
    # OpenCV's fixed-point coordinates overflow far outside the image; nothing is drawn out there.
    return np.rint(np.clip(points, -1e5, 1e5) * 2**_SHIFT).astype(np.int32)[:, None]


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    # Comes with matplotlib, so that a sheet looks the same everywhere; OpenCV 4 writes ASCII only.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def write(canvas: Picture, text: str, place: tuple[int, int], colour: Colour, size: int) -> None:
    """Writes text whose left middle is at the place (x, y) in px."""
    picture = Image.fromarray(canvas)
    ImageDraw.Draw(picture).text(place, text, colour, font(size), anchor="lm")
    canvas[...] = np.asarray(picture)


# --- sheets


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    *,
    captions: Sequence[str] | None = None,
    columns: int = 8,
    cell: tuple[int, int] = CELL,
) -> UInt8[np.ndarray, "H W 3"]:
    """A grid of RGB images in reading order, 4 px apart, each above its caption, cut where it is too long.

    Each image fills its cell (height, width in px) as far as its shape allows. Fewer images than `columns` make a
    narrower sheet.
    """
    (height, width), size = cell, _text_size(cell)
    strip = 0 if captions is None else math.ceil(1.5 * size)
    columns = min(columns, len(images))
    step = np.array([height + strip + _GAP, width + _GAP])
    page = np.full((*(step * [math.ceil(len(images) / columns), columns] + _GAP), 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = (step * divmod(index, columns) + _GAP).tolist()
        place = page[top : top + height + strip, left : left + width]
        place[:height], _, _ = letterbox(image, cell)
        if captions is not None:
            write(place, captions[index], (1, height + strip // 2), (40, 40, 40), size)
    return page


def letterbox(
    image: Picture, cell: tuple[int, int]
) -> tuple[Picture, Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """The image as large as fits a cell (height, width), centred; and scale and offset (x, y), of which
    px of the cell = scale * px of the image + offset."""
    size, room = np.array(image.shape[1::-1]), (cell[1], cell[0])
    picture = Image.fromarray(image)
    fitted = np.array(ImageOps.contain(picture, room).size)
    padded = ImageOps.pad(picture, room, color=FILLER)  # type: ignore[arg-type]
    # Resizing aligns the edges of the two grids, not the centres of their first pixels.
    scale = fitted / size
    return np.array(padded), scale, (scale - 1) / 2 + np.rint((np.array(room) - fitted) / 2)


def _text_size(cell: tuple[int, int]) -> int:
    return int(np.clip(min(cell) // 15, 9, 24))


def pose_sheet(
    crops: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    predicted: Float[np.ndarray, "N K 2"],
    target: Float[np.ndarray, "N K 2"] | None = None,
    *,
    skeleton: Skeleton,
    scores: Float[np.ndarray, "N K"] | None = None,
    captions: Sequence[str] | None = None,
    columns: int = 8,
    cell: tuple[int, int] = CELL,
) -> UInt8[np.ndarray, "H W 3"]:
    """Predictions on their RGB crops, with the labels (`target`) and a line from each joint to its label.

    Joints and labels are x, y in px of the crops, nan where there is none. See `draw_pose` for scores,
    `contact_sheet` for captions, columns and cell.
    """
    pictures = []
    for n, crop in enumerate(crops):
        picture, scale, offset = letterbox(crop, cell)
        labels = None if target is None else target[n] * scale + offset
        own = None if scores is None else scores[n]
        draw_pose(picture, predicted[n] * scale + offset, skeleton, scores=own, labels=labels)
        pictures.append(picture)
    sheet, size = contact_sheet(pictures, captions=captions, columns=columns, cell=cell), _text_size(cell)
    words = {"left": "● person's left", "right": "● person's right", "centre": "● centre"}
    entries: dict[str, Colour] = {words[side]: colour for side, colour in SIDE_COLOURS.items()}
    if target is not None:
        entries["— label and error"] = LABEL_COLOUR
    if scores is not None and ((scores != 0) & (scores < LOW_SCORE)).any():
        entries[f"○ score below {LOW_SCORE:g}"] = FILLER
    in_line = max(1, sheet.shape[1] // (12 * size))
    legend = np.full((2 * size * math.ceil(len(entries) / in_line), sheet.shape[1], 3), PLATE, np.uint8)
    for n, (text, colour) in enumerate(entries.items()):
        line, column = divmod(n, in_line)
        write(legend, text, (size * (12 * column + 1), size * (2 * line + 1)), colour, size)
    return np.concatenate([sheet, legend])


def crop_sheet(crops: CropDataset, keys: Sequence[SampleKey], height: int = 256) -> UInt8[np.ndarray, "_ _ 3"]:
    """The crops, `height` px high, with their labelled joints: what a network sees."""
    samples = [{name: np.asarray(value) for name, value in crops[key].items()} for key in keys]
    return pose_sheet(
        [sample["image"] for sample in samples],
        np.stack([np.where(s["labelled"][:, None], s["joints_crop"], np.nan) for s in samples]),
        skeleton=crops.persons.skeleton,
        captions=[str(crops.persons.ids[key.index]) for key in keys],
        columns=6,
        cell=(height, round(height * crops.input_size[1] / crops.input_size[0])),
    )

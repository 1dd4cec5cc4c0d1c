"""Contact sheets: images in a grid, poses beside their labels, score maps as heat."""

import math
from collections.abc import Mapping, Sequence

import cv2
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps

from pnfs.body import Skeleton
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.viz import poses
from pnfs.viz.style import SIDE_COLOURS

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
            poses.write(place, captions[index], (1, height + strip // 2), (40, 40, 40), size)
    return page


def letterbox(
    image: poses.Picture, cell: tuple[int, int]
) -> tuple[poses.Picture, Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """The image as large as fits a cell (height, width), centred; and scale and offset (x, y), of which
    px of the cell = scale * px of the image + offset."""
    size, room = np.array(image.shape[1::-1]), (cell[1], cell[0])
    picture = Image.fromarray(image)
    fitted = np.array(ImageOps.contain(picture, room).size)
    padded = ImageOps.pad(picture, room, color=poses.FILLER)  # type: ignore[arg-type]
    # Resizing aligns the edges of the two grids, not the centres of their first pixels.
    scale = fitted / size
    return np.array(padded), scale, (scale - 1) / 2 + np.rint((np.array(room) - fitted) / 2)


def _text_size(cell: tuple[int, int]) -> int:
    return int(np.clip(min(cell) // 15, 9, 24))


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
    """Predictions on their RGB crops, with the labels and a line from each joint to its label.

    Joints and labels (`target`; None shows the predictions alone) are x, y in px of the crops; `labelled` says
    which joints have a label, None: all. See `draw_pose` for scores, `contact_sheet` for captions, columns and
    cell.
    """
    if target is not None and labelled is not None:
        target = np.where(labelled[..., None], target, np.nan)
    pictures = []
    for n, crop in enumerate(crops):
        picture, scale, offset = letterbox(crop, cell)
        labels = None if target is None else target[n] * scale + offset
        own = None if scores is None else scores[n]
        poses.draw_pose(picture, predicted[n] * scale + offset, skeleton, scores=own, labels=labels)
        pictures.append(picture)
    sheet = contact_sheet(pictures, captions=captions, columns=columns, cell=cell)
    words = {"left": "● person's left", "right": "● person's right", "centre": "● centre"}
    entries: dict[str, poses.Colour] = {words[side]: colour for side, colour in SIDE_COLOURS.items()}
    if target is not None:
        entries["— label and error"] = poses.LABEL_COLOUR
    if scores is not None and ((scores != 0) & (scores < poses.LOW_SCORE)).any():
        entries[f"○ score below {poses.LOW_SCORE:g}"] = poses.FILLER
    return np.concatenate([sheet, _legend(sheet.shape[1], _text_size(cell), entries)])


def _legend(width: int, size: int, entries: Mapping[str, poses.Colour]) -> poses.Picture:
    """A strip with the meaning of each colour, in as many lines as it takes."""
    places, x, y = [], size, size
    for text in entries:
        length = math.ceil(poses.font(size).getlength(text))
        if x > size and x + length > width:
            x, y = size, y + 2 * size
        places.append((x, y))
        x += length + 2 * size
    legend = np.full((y + size, width, 3), poses.PLATE, np.uint8)
    for (text, colour), place in zip(entries.items(), places, strict=True):
        poses.write(legend, text, place, colour, size)
    return legend


def score_map_sheet(
    crop: UInt8[np.ndarray, "H W 3"],
    maps: Float[np.ndarray, "J h w"],
    names: Sequence[str],
    *,
    columns: int = 8,
    cell: tuple[int, int] = CELL,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The score maps of one person as heat over the RGB crop, each with its maximum ringed and in the caption.

    Pixel (x, y) of a map lies on (x, y) × stride of the crop, stride = H / h. The bare crop comes first.
    """
    maps = np.nan_to_num(np.asarray(maps, np.float32), posinf=0.0)
    stride, brightest = len(crop) / maps.shape[1], float(maps.max()) or 1.0
    pictures = [crop]
    for score_map in maps:
        matrix = np.diag([stride, stride, 1.0])[:2]
        level = cv2.warpAffine(score_map / brightest, matrix, crop.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        level = np.clip(level, 0, 1)
        heat = matplotlib.colormaps["inferno"](level)[..., :3] * 255
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None] * 0.75
        strength = np.sqrt(level)[..., None] * 0.85
        shown = np.rint(grey * (1 - strength) + heat * strength).astype(np.uint8)
        picture, scale, offset = letterbox(shown, cell)
        y, x = np.unravel_index(score_map.argmax(), score_map.shape)
        center = np.array([x, y]) * stride * scale + offset
        poses.outlined(picture, center + min(cell) / 16 * poses.UNIT_CIRCLE, 1, closed=True)
        pictures.append(picture)
    captions = [f"{name} {each.max():.2f}" for name, each in zip(names, maps, strict=True)]
    return contact_sheet(pictures, captions=["crop", *captions], columns=columns, cell=cell)


def crop_sheet(crops: CropDataset, keys: Sequence[SampleKey], height: int = 256) -> UInt8[np.ndarray, "_ _ 3"]:
    """The crops, `height` px high, with their labelled joints: what a network sees."""
    samples = [{name: np.asarray(value) for name, value in crops[key].items()} for key in keys]
    joints = [np.where(s["labelled"][:, None], s["joints_crop"], np.nan) for s in samples]
    return pose_sheet(
        [sample["image"] for sample in samples],
        np.stack(joints),
        skeleton=crops.persons.skeleton,
        captions=[str(crops.persons.ids[key.index]) for key in keys],
        columns=6,
        cell=(height, round(height * crops.input_size[1] / crops.input_size[0])),
    )

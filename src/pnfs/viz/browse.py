"""Contact sheets of what a network sees: augmented crops, mirrored twins and target maps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8

from pnfs.body import PartMode
from pnfs.codec.targets import gaussian_targets
from pnfs.data.augmentation import Augmentation
from pnfs.data.dataset import CropDataset, SampleKey
from pnfs.data.geometry import fit_box, heatmap_stride, invert
from pnfs.data.persons import Persons
from pnfs.viz.sheets import pose_sheet, score_map_sheet

Sheet = UInt8[np.ndarray, "H W 3"]


def chosen_persons(persons: Persons, count: int, seed: int) -> list[int]:
    """Rows of up to `count` persons, drawn by the seed, in the dataset's order."""
    rows = np.random.default_rng([seed, len(persons)]).permutation(len(persons))[:count]
    return np.sort(rows).tolist()


def crop_sheet(
    persons: Persons,
    rows: Sequence[int],
    *,
    input_size: tuple[int, int],
    augmentation: Augmentation | None = None,
    seed: int = 0,
    epoch: int = 0,
    unbiased: bool = False,
    columns: int = 6,
    height: int = 256,
) -> Sheet:
    """The crops that training gets in one epoch, with their labelled joints.

    The caption names the person and what was drawn: rotation, scale, "flip".

    Args:
        persons: The persons.
        rows: Which of them.
        input_size: (height, width) of the crops, px.
        augmentation: As in training; None for the plain crops of evaluation.
        seed: Of the augmentation, as in training.
        epoch: Another epoch draws anew.
        unbiased: Geometry of the crops; see `crop_matrix`.
        columns: Crops in a row.
        height: Of a crop on the sheet, px.
    """
    crops = _crops(persons, rows, input_size, augmentation, seed, epoch, unbiased)
    return _poses(persons, crops, columns, _cell(input_size, height))


def flip_sheet(
    persons: Persons,
    rows: Sequence[int],
    *,
    input_size: tuple[int, int],
    augmentation: Augmentation | None = None,
    seed: int = 0,
    epoch: int = 0,
    unbiased: bool = False,
    pairs: int = 3,
    height: int = 256,
) -> Sheet:
    """Each crop beside its mirrored twin, whose left and right joints have changed places.

    Both come out of the pipeline that training uses, with equal draws but for the flip: in a
    right pair, colours stay with the person's sides and not with the picture's.

    Args:
        persons: The persons.
        rows: Which of them.
        input_size: (height, width) of the crops, px.
        augmentation: As in training; None for plain crops.
        seed: Of the augmentation.
        epoch: Another epoch draws anew.
        unbiased: Geometry of the crops; see `crop_matrix`.
        pairs: Pairs in a row.
        height: Of a crop on the sheet, px.
    """
    base = augmentation or Augmentation(rotation=0.0, scale=(1.0, 1.0))
    plain, mirrored = (
        _crops(persons, rows, input_size, replace(base, flip=flip), seed, epoch, unbiased)
        for flip in (0.0, 1.0)
    )
    crops = [crop for pair in zip(plain, mirrored, strict=True) for crop in pair]
    return _poses(persons, crops, 2 * pairs, _cell(input_size, height))


def target_sheet(
    persons: Persons,
    rows: Sequence[int],
    *,
    parts: PartMode,
    input_size: tuple[int, int],
    augmentation: Augmentation | None = None,
    stride: int = 4,
    sigma: float = 2.0,
    quantised: bool = True,
    seed: int = 0,
    epoch: int = 0,
    unbiased: bool = False,
    height: int = 256,
) -> Sheet:
    """One row a person: the crop, then for each part the maxima of its joints' target maps.

    The caption counts the joints that are learned: labelled, and not wholly outside the crop.

    Args:
        persons: The persons.
        rows: Which of them.
        parts: How the joints are grouped.
        input_size: (height, width) of the crops, px; multiples of `stride`.
        augmentation: As in training; None for plain crops.
        stride: Crop px per score-map px.
        sigma: Of the target Gaussians, in score-map px.
        quantised: Put the Gaussians on whole score-map px, as `gaussian_targets` says.
        seed: Of the augmentation.
        epoch: Another epoch draws anew.
        unbiased: Geometry of the crops; see `crop_matrix`.
        height: Of a crop on the sheet, px.
    """
    sheets = []
    size = (input_size[0] // stride, input_size[1] // stride)
    for crop in _crops(persons, rows, input_size, augmentation, seed, epoch, unbiased):
        maps, weights = gaussian_targets(
            torch.from_numpy(np.asarray(crop["joints"]))[None],
            torch.from_numpy(np.asarray(crop["labelled"]))[None],
            heatmap_size=size,
            stride=heatmap_stride(input_size, size, unbiased),
            sigma=sigma,
            quantised=quantised,
        )
        learned = weights[0].numpy() > 0
        names = [
            f"{name}: {learned[parts.skeleton.indices(list(joints))].sum()} of {len(joints)} joints"
            for name, joints in parts.parts.items()
        ]
        sheets.append(
            score_map_sheet(
                np.asarray(crop["image"]),
                part_maxima(maps[0].numpy(), parts),
                names,
                columns=len(parts) + 1,
                cell=_cell(input_size, height),
                highest=1.0,
                mark_maximum=False,
            )
        )
    return np.concatenate(sheets)


def part_maxima(maps: Float[np.ndarray, "K h w"], parts: PartMode) -> Float[np.ndarray, "P h w"]:
    """For each part the highest of its joints' maps, pixel by pixel."""
    return np.stack(
        [maps[parts.skeleton.indices(list(joints))].max(0) for joints in parts.parts.values()]
    )


def describe_crop(persons: Persons, crop: Mapping[str, np.ndarray | np.generic]) -> str:
    """The person's id, and the rotation, scale and flip that the crop's matrix holds."""
    row = int(crop["sample_index"])
    matrix = invert(np.asarray(crop["to_image"], np.float64))
    height, width = np.asarray(crop["image"]).shape[:2]
    # The flip changes the first row of a crop's matrix only; the second is zoom (-sin, cos).
    sine, cosine = -matrix[1, 0], matrix[1, 1]
    degrees = np.degrees(np.arctan2(sine, cosine))
    plain_width = fit_box(persons.box_size[row], width / height)[0]
    scale = width / np.hypot(sine, cosine) / plain_width
    flip = " flip" if np.linalg.det(matrix[:, :2]) < 0 else ""
    return f"{persons.ids[row]} {degrees:+.0f}° ×{scale:.2f}{flip}"


def _cell(input_size: tuple[int, int], height: int) -> tuple[int, int]:
    """(height, width) of a cell that has the crops' shape: what a crop cuts off is not shown."""
    return height, round(height * input_size[1] / input_size[0])


def _crops(
    persons: Persons,
    rows: Sequence[int],
    input_size: tuple[int, int],
    augmentation: Augmentation | None,
    seed: int,
    epoch: int,
    unbiased: bool,
) -> list[Mapping[str, np.ndarray | np.generic]]:
    dataset = CropDataset(
        persons, input_size=input_size, augmentation=augmentation, seed=seed, unbiased=unbiased
    )
    return [dataset[SampleKey(epoch, row)] for row in rows]


def _poses(
    persons: Persons,
    crops: Sequence[Mapping[str, np.ndarray | np.generic]],
    columns: int,
    cell: tuple[int, int],
) -> Sheet:
    labelled = np.stack([np.asarray(crop["labelled"]) for crop in crops])
    return pose_sheet(
        [np.asarray(crop["image"]) for crop in crops],
        np.stack([np.asarray(crop["joints"]) for crop in crops]),
        skeleton=persons.skeleton,
        # A joint without label has no place to be drawn at.
        scores=labelled.astype(np.float32),
        low_scored="omit",
        captions=[describe_crop(persons, crop) for crop in crops],
        columns=columns,
        cell=cell,
    )

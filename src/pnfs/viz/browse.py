"""Contact sheets of what a network sees: augmented crops, mirrored twins and target maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8

from pnfs.body import PartMode
from pnfs.codec import Codec
from pnfs.data.augmentation import Augmentation
from pnfs.data.dataset import CropDataset, SampleKey
from pnfs.data.geometry import fit_box, invert
from pnfs.data.persons import Persons
from pnfs.viz.sheets import pose_sheet, score_map_sheet

Sheet = UInt8[np.ndarray, "H W 3"]
Crop = Mapping[str, np.ndarray | np.generic]


@dataclass(frozen=True)
class Crops:
    """The crops that training gets in one epoch.

    Args:
        persons: The persons.
        input_size: (height, width) of the crops, px.
        augmentation: As in training; None for the plain crops of evaluation.
        seed: Seed of the augmentation, as in training.
        epoch: Another epoch draws anew.
        unbiased: Geometry of the crops; see `crop_matrix`.
        height: Height of a crop on a sheet, px.
    """

    persons: Persons
    input_size: tuple[int, int]
    augmentation: Augmentation | None = None
    seed: int = 0
    epoch: int = 0
    unbiased: bool = False
    height: int = 256

    @property
    def cell(self) -> tuple[int, int]:
        """(height, width) of a cell that has the crops' shape: what a crop cuts off is not shown."""
        return self.height, round(self.height * self.input_size[1] / self.input_size[0])

    def of(self, rows: Sequence[int]) -> list[Crop]:
        """The crops of those persons."""
        dataset = CropDataset(
            self.persons,
            input_size=self.input_size,
            augmentation=self.augmentation,
            seed=self.seed,
            unbiased=self.unbiased,
        )
        return [dataset[SampleKey(self.epoch, row)] for row in rows]


def chosen_persons(persons: Persons, count: int, seed: int) -> list[int]:
    """Rows of up to `count` persons, drawn by the seed, in the dataset's order."""
    rows = np.random.default_rng([seed, len(persons)]).permutation(len(persons))[:count]
    return np.sort(rows).tolist()


def crop_sheet(crops: Crops, rows: Sequence[int], *, columns: int = 6) -> Sheet:
    """The crops with their labelled joints; captions give the person, rotation, scale and flip."""
    return _poses(crops, crops.of(rows), columns)


def flip_sheet(crops: Crops, rows: Sequence[int], *, pairs: int = 3) -> Sheet:
    """Each crop beside its mirrored twin, whose left and right joints have changed places.

    Both come out of the pipeline that training uses, with equal draws but for the flip: in a
    right pair, colours stay with the person's sides and not with the picture's.
    """
    base = crops.augmentation or Augmentation(rotation=0.0, scale=(1.0, 1.0))
    plain, mirrored = (
        replace(crops, augmentation=replace(base, flip=flip)).of(rows) for flip in (0.0, 1.0)
    )
    twins = [crop for pair in zip(plain, mirrored, strict=True) for crop in pair]
    return _poses(crops, twins, 2 * pairs)


def target_sheet(
    crops: Crops,
    rows: Sequence[int],
    *,
    parts: PartMode,
    stride: int = 4,
    sigma: float = 2.0,
    quantised: bool = True,
) -> Sheet:
    """One row a person: the crop, then for each part the maxima of its joints' target maps.

    The caption counts the joints that are learned: labelled, and not wholly outside the crop.

    Args:
        crops: The crops; multiples of `stride` in size.
        rows: Which persons.
        parts: How the joints are grouped.
        stride: Crop px per score-map px.
        sigma: Width of the target Gaussians, in score-map px.
        quantised: Put the Gaussians on whole score-map px, as `Codec` says.
    """
    sheets = []
    codec = Codec(sigma=sigma, quantised=quantised, unbiased=crops.unbiased)
    size = (crops.input_size[0] // stride, crops.input_size[1] // stride)
    for crop in crops.of(rows):
        maps, weights = codec.targets(
            torch.from_numpy(np.asarray(crop["joints_crop"]))[None],
            torch.from_numpy(np.asarray(crop["labelled"]))[None],
            size,
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
                cell=crops.cell,
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


def describe_crop(persons: Persons, crop: Crop) -> str:
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


def _poses(crops: Crops, shown: Sequence[Crop], columns: int) -> Sheet:
    labelled = np.stack([np.asarray(crop["labelled"]) for crop in shown])
    return pose_sheet(
        [np.asarray(crop["image"]) for crop in shown],
        np.stack([np.asarray(crop["joints_crop"]) for crop in shown]),
        skeleton=crops.persons.skeleton,
        # A joint without label has no place to be drawn at.
        scores=labelled.astype(np.float32),
        low_scored="omit",
        captions=[describe_crop(crops.persons, crop) for crop in shown],
        columns=columns,
        cell=crops.cell,
    )

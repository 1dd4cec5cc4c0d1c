"""Contact sheets of what a network sees: augmented crops, mirrored twins and target maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8

from pnfs.body import PartMode
from pnfs.codec import Codec
from pnfs.data.augmentation import Augmentation
from pnfs.data.crops import CropDataset, SampleKey
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


def flip_sheet(crops: Crops, rows: Sequence[int]) -> Sheet:
    """Each crop beside its mirrored twin, whose left and right joints have changed places.

    Both come out of the pipeline that training uses, with equal draws but for the flip: in a
    right pair, colours stay with the person's sides and not with the picture's.
    """
    base = crops.augmentation or Augmentation(rotation=0.0, scale=(1.0, 1.0))
    pairs = [replace(crops, augmentation=replace(base, flip=flip)).of(rows) for flip in (0.0, 1.0)]
    return _poses(crops, [crop for pair in zip(*pairs, strict=True) for crop in pair], 6)


def target_sheet(
    crops: Crops,
    rows: Sequence[int],
    *,
    parts: PartMode,
    sigma: float = 2.0,
    quantised: bool = True,
) -> Sheet:
    """One row a person: the crop, then for each part the maxima of its joints' target maps.

    The caption counts the joints that are learned: labelled, and not wholly outside the crop.

    Args:
        crops: The crops; multiples of 4 in size.
        rows: Which persons.
        parts: How the joints are grouped.
        sigma: Width of the target Gaussians, in score-map px.
        quantised: Put the Gaussians on whole score-map px, as `Codec` says.
    """
    sheets = []
    codec = Codec(sigma=sigma, quantised=quantised, unbiased=crops.unbiased)
    size = (crops.input_size[0] // 4, crops.input_size[1] // 4)
    groups = {name: parts.skeleton.indices(list(joints)) for name, joints in parts.parts.items()}
    for crop in crops.of(rows):
        joints, labelled = (
            torch.from_numpy(np.asarray(crop[key]))[None] for key in ("joints_crop", "labelled")
        )
        maps, weights = codec.targets(joints, labelled, size)
        learned = weights[0].numpy() > 0
        sheets.append(
            score_map_sheet(
                np.asarray(crop["image"]),
                np.stack([maps[0, list(group)].amax(0).numpy() for group in groups.values()]),
                [f"{k}: {learned[g].sum()} of {len(g)} joints" for k, g in groups.items()],
                columns=len(parts) + 1,
                cell=crops.cell,
                highest=1.0,
            )
        )
    return np.concatenate(sheets)


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
    images, joints, labelled = (
        [np.asarray(crop[key]) for crop in shown] for key in ("image", "joints_crop", "labelled")
    )
    return pose_sheet(
        images,
        np.stack(joints),
        skeleton=crops.persons.skeleton,
        # A joint without label has no place to be drawn at.
        scores=np.stack(labelled).astype(np.float32),
        low_scored="omit",
        captions=[describe_crop(crops.persons, crop) for crop in shown],
        columns=columns,
        cell=crops.cell,
    )

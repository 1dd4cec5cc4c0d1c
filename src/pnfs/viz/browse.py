"""Contact sheets of what a network sees: augmented crops, mirrored twins and target maps."""

import copy
from collections.abc import Sequence
from dataclasses import replace

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


def chosen_persons(persons: Persons, count: int, seed: int) -> list[int]:
    """Rows of up to `count` persons, drawn by the seed, in the dataset's order."""
    rows = np.random.default_rng([seed, len(persons)]).permutation(len(persons))[:count]
    return np.sort(rows).tolist()


def crop_sheet(crops: CropDataset, keys: Sequence[SampleKey], height: int = 256) -> Sheet:
    """The crops, `height` px high, with their labelled joints; captions give person, rotation, scale, flip."""
    samples = [_arrays(crops, key) for key in keys]
    return pose_sheet(
        [sample["image"] for sample in samples],
        np.stack([sample["joints_crop"] for sample in samples]),
        skeleton=crops.persons.skeleton,
        # A joint of score 0, here one without label, is not drawn.
        scores=np.stack([sample["labelled"] for sample in samples]).astype(np.float32),
        captions=[describe_crop(crops.persons, sample) for sample in samples],
        columns=6,
        cell=_cell(crops, height),
    )


def flip_sheet(crops: CropDataset, keys: Sequence[SampleKey], height: int = 256) -> Sheet:
    """Crops above their mirrored twins, whose left and right joints have changed places.

    Both come out of the pipeline that training uses, with equal draws but for the flip: in a
    right pair, colours stay with the person's sides and not with the picture's.
    """
    base = crops.augmentation or Augmentation(rotation=0.0, scale=(1.0, 1.0))
    sheets = []
    for flip in (0.0, 1.0):
        twin = copy.copy(crops)
        twin.augmentation = replace(base, flip=flip)
        sheets.append(crop_sheet(twin, keys, height))
    return np.concatenate(sheets)


def target_sheet(
    crops: CropDataset,
    keys: Sequence[SampleKey],
    *,
    parts: PartMode,
    sigma: float = 2.0,
    quantised: bool = True,
    height: int = 256,
) -> Sheet:
    """One row a person: the crop, then for each part the maxima of its joints' target maps.

    The caption counts the joints that are learned: labelled, and not wholly outside the crop.

    Args:
        crops: The crops; multiples of 4 in size.
        keys: Which of them.
        parts: How the joints are grouped.
        sigma: Width of the target Gaussians, in score-map px.
        quantised: Put the Gaussians on whole score-map px, as `Codec` says.
        height: Height of a crop on the sheet, px.
    """
    sheets = []
    codec = Codec(sigma=sigma, quantised=quantised, unbiased=crops.unbiased)
    size = (crops.input_size[0] // 4, crops.input_size[1] // 4)
    groups = {name: parts.skeleton.indices(list(joints)) for name, joints in parts.parts.items()}
    for sample in (_arrays(crops, key) for key in keys):
        joints, labelled = (
            torch.from_numpy(sample[name])[None] for name in ("joints_crop", "labelled")
        )
        maps, weights = codec.targets(joints, labelled, size)
        learned = weights[0].numpy() > 0
        sheets.append(
            score_map_sheet(
                sample["image"],
                np.stack([maps[0, list(group)].amax(0).numpy() for group in groups.values()]),
                [f"{k}: {learned[list(g)].sum()} of {len(g)} joints" for k, g in groups.items()],
                columns=len(parts) + 1,
                cell=_cell(crops, height),
                highest=1.0,
            )
        )
    return np.concatenate(sheets)


def describe_crop(persons: Persons, sample: dict[str, np.ndarray]) -> str:
    """The person's id, and the rotation, scale and flip that the crop's matrix holds."""
    row, matrix = int(sample["sample_index"]), invert(sample["to_image"].astype(np.float64))
    height, width = sample["image"].shape[:2]
    # The flip changes the first row of a crop's matrix only; the second is zoom (-sin, cos).
    sine, cosine = -matrix[1, 0], matrix[1, 1]
    plain_width = fit_box(persons.box_size[row], width / height)[0]
    scale = width / np.hypot(sine, cosine) / plain_width
    flip = " flip" if np.linalg.det(matrix[:, :2]) < 0 else ""
    return f"{persons.ids[row]} {np.degrees(np.arctan2(sine, cosine)):+.0f}° ×{scale:.2f}{flip}"


def _arrays(crops: CropDataset, key: SampleKey) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in crops[key].items()}


def _cell(crops: CropDataset, height: int) -> tuple[int, int]:
    """(height, width) of a cell of the crops' shape: what a crop cuts off is not shown."""
    return height, round(height * crops.input_size[1] / crops.input_size[0])

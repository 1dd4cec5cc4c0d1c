"""What a network sees: sheets come from the training pipeline and show what it does."""

import numpy as np
import pytest

from pnfs.body import MPII, PartMode
from pnfs.data.augmentation import Augmentation
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.data.synthetic import Synthetic
from pnfs.viz.browse import (
    chosen_persons,
    crop_sheet,
    describe_crop,
    flip_sheet,
    target_sheet,
)

SIZE = (64, 48)
PARTS = PartMode(
    MPII,
    {
        "upper": MPII.joints[:9],
        "lower": MPII.joints[9:],
    },
)


@pytest.fixture(scope="module")
def persons():
    return Synthetic("mpii", train=12, image_size=(64, 64), unlabelled=0.2).persons("train")


def cell(sheet: np.ndarray, column: int, row: int = 0, strip: int = 14) -> np.ndarray:
    """A picture of a sheet whose cells are as large as the crops; the gap is 4 px."""
    height, width = SIZE
    top, left = 4 + row * (height + strip + 4), 4 + column * (width + 4)
    return sheet[top : top + height, left : left + width]


def test_choice_of_persons_is_the_seeds(persons) -> None:
    assert chosen_persons(persons, 5, 0) == chosen_persons(persons, 5, 0)
    assert chosen_persons(persons, 5, 0) != chosen_persons(persons, 5, 1)
    assert chosen_persons(persons, 99, 0) == list(range(12))


def test_crops_are_those_of_training(persons) -> None:
    """Far from the drawn joints, the sheet's pixels are the loader's, for the same seed and epoch."""
    crops = CropDataset(persons, input_size=SIZE, augmentation=Augmentation(), seed=4)
    keys = [SampleKey(3, 2), SampleKey(3, 7)]
    sheet = crop_sheet(crops, keys, height=64)
    for column, key in enumerate(keys):
        same = (cell(sheet, column) == crops[key]["image"]).all(-1).mean()
        assert 0.5 < same < 1


def test_twin_is_the_exact_mirror_image(persons) -> None:
    """Colour changes and rotation are drawn alike; only sides of the drawn skeleton differ."""
    crops = CropDataset(persons, input_size=SIZE, augmentation=Augmentation(colour=1.0), seed=2)
    above, below = np.split(flip_sheet(crops, [SampleKey(0, 1)], height=64), 2)
    plain, twin = cell(above, 0).astype(int), cell(below, 0).astype(int)
    # warpAffine rounds the two crops' coordinates differently, by one grey level here and there.
    close = np.abs(plain - twin[:, ::-1]).max(-1) <= 3
    assert 0.5 < close.mean() < 1
    assert (np.abs(plain - twin).max(-1) <= 3).mean() < close.mean()


@pytest.mark.parametrize("flip", [False, True])
def test_caption_tells_what_was_drawn(persons, flip: bool) -> None:
    augmentation = Augmentation(rotation=30.0, scale=(0.8, 1.2), flip=float(flip))
    dataset = CropDataset(persons, input_size=SIZE, augmentation=augmentation, seed=9)
    for row in range(6):
        drawn = augmentation.draw(np.random.default_rng([9, 1, row]))
        sample = {name: np.asarray(value) for name, value in dataset[SampleKey(1, row)].items()}
        expected = f"{persons.ids[row]} {drawn.rotation_degrees:+.0f}° ×{drawn.scale:.2f}"
        assert describe_crop(persons, sample) == expected + (" flip" if flip else "")


def test_targets_glow_where_the_joints_are(persons) -> None:
    dataset = CropDataset(persons, input_size=SIZE)
    keys = [SampleKey(0, 0), SampleKey(0, 3)]
    sheet = target_sheet(dataset, keys, parts=PARTS, height=64)
    for row, key in enumerate(keys):
        sample = dataset[key]
        for column, part in enumerate(PARTS.parts.values(), start=1):
            picture = cell(sheet, column, row).astype(int)
            for k in MPII.indices(list(part)):
                x, y = np.round(sample["joints_crop"][k] / 4).astype(int) * 4
                if sample["labelled"][k] and 0 <= x < 48 and 0 <= y < 64:
                    # The peak of the colour map is a pale yellow; the crop beneath is grey.
                    assert picture[y, x, 0] > 180
                    assert picture[y, x, 0] > picture[y, x, 2] + 40

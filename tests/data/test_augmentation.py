"""Augmentation: what is drawn, what is refused, and that pixels change by the seed alone."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from pnfs.data.augmentation import Augmentation


def test_draws_fill_their_ranges_evenly() -> None:
    augmentation = Augmentation(rotation=30, scale=(0.5, 2.5), flip=0.25)
    generator = np.random.default_rng(0)
    draws = [augmentation.draw(generator) for _ in range(4000)]
    for values, low, high in (
        ([d.rotation_degrees for d in draws], -30, 30),
        ([d.scale for d in draws], 0.5, 2.5),
    ):
        assert low <= min(values) < max(values) <= high
        shares = np.histogram(values, bins=4, range=(low, high))[0] / 4000
        # Five standard deviations of a share of a quarter.
        np.testing.assert_allclose(shares, 0.25, atol=5 * math.sqrt(0.25 * 0.75 / 4000))
    assert np.mean([d.flip for d in draws]) == pytest.approx(0.25, abs=0.035)


def test_the_default_is_the_papers_recipe() -> None:
    paper = Augmentation()
    assert (paper.rotation, paper.scale, paper.flip) == (45, (0.7, 1.3), 0.5)
    image = np.zeros((4, 4, 3), np.uint8)
    assert paper.change_pixels(image, np.random.default_rng(0)) is image


@pytest.mark.parametrize(
    ("key", "value"),
    [*((name, value) for name in ("flip", "colour", "blur", "occlusion") for value in (-0.1, math.nan)),
     *(("scale", scale) for scale in ((0, 1), (1.3, 0.7), (math.nan, 1), (1, math.nan), (1, 1, 1))),
     ("rotation", -1), ("rotation", math.inf)],
)  # fmt: skip
def test_values_out_of_range_are_refused(key: str, value) -> None:
    with pytest.raises(ValueError, match=rf"augmentation\.{key} "):
        Augmentation(**{key: value})


PIXELS = {
    "colour": Augmentation(colour=1),
    "blur": Augmentation(blur=1),
    "occlusion": Augmentation(occlusion=1),
    "all": Augmentation(colour=0.8, blur=0.5, occlusion=0.5),
}


@pytest.mark.parametrize("augmentation", PIXELS.values(), ids=PIXELS.keys())
def test_pixels_change_by_the_seed_alone(augmentation: Augmentation) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    original = noise.copy()

    def changed(by: Augmentation, seed: int) -> np.ndarray:
        return by.change_pixels(noise, np.random.default_rng(seed))

    first = [changed(augmentation, seed) for seed in range(6)]
    # Another order, other global generators, another instance: as in another worker.
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    fresh = replace(augmentation)
    for seed in reversed(range(6)):
        np.testing.assert_array_equal(changed(fresh, seed), first[seed])
    # Global generators and the crop are left alone.
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before  # noqa: NPY002
    np.testing.assert_array_equal(noise, original)
    assert len({image.tobytes() for image in first}) > 1
    assert all(image.shape == (48, 40, 3) and image.dtype == np.uint8 for image in first)


def test_occlusion_blots_out_rectangles_and_nothing_else() -> None:
    y, x = np.mgrid[:48, :40]
    smooth = np.stack([60 + 2 * x, 40 + 3 * y, 100 + x + y], -1).astype(np.uint8)
    for seed in range(5):
        found = PIXELS["occlusion"].change_pixels(smooth, np.random.default_rng(seed))
        # One to three rectangles, each 0.1 to 0.3 of a side long.
        assert 0.1 * 0.1 * 0.5 < (found != smooth).any(-1).mean() < 3 * 0.3 * 0.3 * 1.2

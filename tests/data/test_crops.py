"""Crops: matrices, augmentation, dots at the joints, draws by (seed, epoch, index), shards of an epoch."""

import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from pnfs.body import Skeleton
from pnfs.data import geometry
from pnfs.data.augmentation import Augmentation
from pnfs.data.crops import CACHED, SAMPLING, CropDataset, EpochSampler, SampleKey, cut_crops, start_worker
from pnfs.data.geometry import apply
from written_datasets import toy_persons

# --- matrices


@pytest.mark.fixtures("affine*.npz")
def test_crop_matrices_match_the_reference(fixture_file: Path) -> None:
    cases = np.load(fixture_file)
    for row in range(len(cases["center"])):
        size = tuple(cases["output_size_wh"][row].tolist()[::-1])
        box, rotation = 200 * cases["scale"][row], cases["rot_deg"][row]
        matrix = geometry.crop_matrix(cases["center"][row], box, rotation, size)
        pairs = (matrix, cases["matrix"][row]), (geometry.invert(matrix), cases["matrix_inv"][row])
        for found, recorded in pairs:
            # The reference solves for its matrix from points in single precision.
            largest = np.abs(recorded[:, :2]).max()
            np.testing.assert_allclose(found[:, :2], recorded[:, :2], atol=1e-5 * largest, rtol=0)
            np.testing.assert_allclose(found[:, 2], recorded[:, 2], atol=0.02, rtol=0)


PLACES, SIZES = st.floats(-2000, 2000), st.tuples(st.integers(16, 512), st.integers(16, 512))


@given(PLACES, PLACES, st.floats(5, 3000), st.floats(-180, 180), SIZES, st.booleans())
def test_the_unbiased_crop_takes_the_box_to_the_outermost_pixels(x, y, width, rotation, output_size, flip) -> None:
    bottom, right = output_size[0] - 1, output_size[1] - 1
    center = np.array([x, y])
    box = geometry.fit_box(np.array([width, 1e-3]), right / bottom)
    matrix = geometry.crop_matrix(center, box, rotation, output_size, flip, unbiased=True)
    # The box's corners as they lie in the turned image.
    angle = np.radians(rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * box / 2 @ turn.T + center
    expected = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], float)
    if flip:
        expected[:, 0] = right - expected[:, 0]
    np.testing.assert_allclose(apply(matrix, corners), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("center", "width", "rotation"), [((5, 5), 0, 0), ((5, 5), -3, 0), ((np.nan, 5), 9, 0), ((5, 5), 9, np.inf)]
)
def test_an_impossible_box_is_refused(center, width, rotation) -> None:
    with pytest.raises(ValueError, match="no crop can be made"):
        geometry.crop_matrix(np.array(center), np.array([width, 9]), rotation, (64, 64))


# --- augmentation


def test_draws_fill_their_ranges() -> None:
    augmentation, generator = Augmentation(rotation=30, scale=(0.5, 2.5), flip=0.25), np.random.default_rng(0)
    draws = np.array([augmentation.draw(generator) for _ in range(4000)])
    quartiles = np.quantile(draws[:, :2], (0, 0.25, 0.5, 0.75, 1), axis=0)
    np.testing.assert_allclose(quartiles[:, 0], (-30, -15, 0, 15, 30), atol=2)
    np.testing.assert_allclose(quartiles[:, 1], (0.5, 1, 1.5, 2, 2.5), atol=0.07)
    assert draws[:, 2].mean() == pytest.approx(0.25, abs=0.035)


@pytest.mark.parametrize(
    ("key", "value"),
    [*((name, value) for name in ("flip", "colour", "blur", "occlusion") for value in (-0.1, math.nan)),
     *(("scale", scale) for scale in ((0, 1), (1.3, 0.7), (math.nan, 1), (1, 1, 1))), ("rotation", math.inf)],
)  # fmt: skip
def test_values_out_of_range_are_refused(key: str, value) -> None:
    with pytest.raises(ValueError, match=rf"augmentation\.{key} "):
        Augmentation(**{key: value})


STRONG = Augmentation(colour=0.8, blur=0.5, occlusion=0.5)


@pytest.mark.parametrize("made", [Augmentation(colour=1), Augmentation(blur=1), Augmentation(occlusion=1), STRONG])
def test_pixels_change_by_the_seed_alone(made: Augmentation) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    original = noise.copy()
    first = [made.change_pixels(noise, np.random.default_rng(seed)) for seed in range(6)]
    # Another order, other global generators, another instance: as in another worker.
    random.seed(99)
    before, fresh = random.getstate(), replace(made)
    for seed in reversed(range(6)):
        np.testing.assert_array_equal(fresh.change_pixels(noise, np.random.default_rng(seed)), first[seed])
    # Global generators and the crop are left alone.
    assert random.getstate() == before
    np.testing.assert_array_equal(noise, original)
    assert len({image.tobytes() for image in first}) > 1


# --- crops

JOINTS = ("head", "left_hand", "right_hand", "left_foot", "right_foot")
PAIRS = (("left_hand", "right_hand"), ("left_foot", "right_foot"))
TOY = Skeleton(name="toy", joints=JOINTS, flip_pairs=PAIRS, limbs=(), groups={})
PARTNERS, COUNT = [0, 2, 1, 4, 3], 6
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]


def dotted(joints: np.ndarray) -> Any:
    """Black pictures with a dot of its joint's colour at every joint."""

    def read(index: int) -> np.ndarray:
        image = np.zeros((220, 180, 3), np.uint8)
        for colour, (x, y) in zip(COLOURS, joints[index].tolist(), strict=True):
            cv2.circle(image, (round(x), round(y)), 5, colour, -1)
        return image

    return SimpleNamespace(read=read, describe=str)


def dot_centre(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Centre of the pixels of one pure colour."""
    weights = 1 - np.abs(image / 255.0 - np.array(colour) / 255.0).max(-1)
    weights = np.where(weights > 0.6, weights, 0)
    assert weights.sum() > 15
    rows, columns = np.indices(weights.shape)
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("size", [(128, 128), (160, 96), (96, 128)])
def test_joints_lie_on_their_dots(size: tuple[int, int]) -> None:
    # Joints far from each other, so that no dot covers another; the picture is no square.
    places = np.array([[90, 60], [50, 100], [130, 110], [70, 160], [115, 150]])
    joints = (places + np.random.default_rng(5).integers(-8, 9, (COUNT, 5, 2))).astype(np.float32)
    visibility = np.full((COUNT, 5), 2, np.int8)
    visibility[:, 1] = 0
    columns = {"joints": joints, "visibility": visibility, "box_size": np.full((COUNT, 2), (130, 150), np.float32)}
    columns["center"] = np.full((COUNT, 2), (92, 108), np.float32)
    persons = replace(toy_persons(COUNT, dotted(joints), skeleton=TOY), **columns)
    dataset = CropDataset(persons, input_size=size, augmentation=Augmentation(rotation=60), seed=3)
    found, flips = 0, Counter()
    for epoch in range(4):
        for index in range(COUNT):
            sample = dataset[SampleKey(epoch, index)]
            # In a mirrored crop the person's right hand is the left one.
            flip = np.linalg.det(sample["to_image"][:, :2]) < 0
            rows = PARTNERS if flip else list(range(5))
            flips[flip] += 1
            for row, (x, y) in zip(rows, sample["joints_crop"], strict=True):
                if 12 < x < size[1] - 12 and 12 < y < size[0] - 12:
                    np.testing.assert_allclose(dot_centre(sample["image"], COLOURS[row]), (x, y), atol=0.6)
                    found += 1
            places = apply(sample["to_image"], sample["joints_crop"])
            np.testing.assert_allclose(places, persons.joints[index, rows], atol=1e-3)
            # Labels change sides with their joints.
            assert sample["labelled"].tolist() == (visibility[index, rows] > 0).tolist()
    assert found > 60
    assert min(flips[True], flips[False]) >= 5


def test_a_larger_box_shows_the_person_smaller() -> None:
    plain, half = (
        CropDataset(toy_persons(COUNT), input_size=(64, 48), augmentation=Augmentation(0, (scale, scale), 0))[1]
        for scale in (1.0, 2.0)
    )
    middle = np.array([24, 32])
    np.testing.assert_allclose(half["joints_crop"] - middle, (plain["joints_crop"] - middle) / 2, atol=1e-4)


def test_pixels_cut_on_the_device_are_rounded() -> None:
    cached = torch.tensor([0, 3], dtype=torch.uint8).view(1, 1, 2, 1).expand(1, 2, 2, 3)
    sampling = torch.tensor([[[0.25, 0, 0], [0, 1, 0]]])  # A quarter of a pixel a step: 0, 0.75, 1.5, 2.25.
    batch: Any = cut_crops({SAMPLING: sampling, CACHED: cached}, (1, 4))
    assert batch["image"][0, 0, :, 0].tolist() == [0, 1, 2, 2]


def test_a_sample_is_a_function_of_seed_epoch_and_index() -> None:
    def sample(seed: int, epoch: int, index: int):
        dataset = CropDataset(toy_persons(COUNT), input_size=(64, 48), augmentation=STRONG, seed=seed)
        return dict(dataset[SampleKey(epoch, index)])

    base = sample(1, 2, 3)
    np.testing.assert_equal(sample(1, 2, 3), base)
    for other in (sample(2, 2, 3), sample(1, 3, 3), sample(3, 2, 1), sample(1, 2, 4)):
        assert not np.allclose(base["to_image"], other["to_image"])


def test_workers_change_nothing() -> None:
    dataset = CropDataset(toy_persons(COUNT), input_size=(64, 48), augmentation=STRONG, seed=9)
    options = {"batch_size": 2, "sampler": EpochSampler(range(COUNT), seed=9), "worker_init_fn": start_worker}
    none, two = (list(DataLoader(dataset, num_workers=workers, **options)) for workers in (0, 2))
    torch.testing.assert_close(none, two, rtol=0, atol=0)


def keys(rows, epoch: int = 6, **options) -> list[int]:
    sampler = EpochSampler(rows, **{"seed": 1} | options)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    assert {key.epoch for key in drawn} == {epoch}
    return [index for _, index in drawn]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 3), (10, 4), (2, 5)])
def test_shards_cover_everything_once_but_for_the_padding(size: int, world: int, shuffle: bool) -> None:
    shards = [keys(range(size), shuffle=shuffle, rank=rank, world_size=world) for rank in range(world)]
    length = math.ceil(size / world)
    assert [len(shard) for shard in shards] == [length] * world
    # In the order in which the processes take turns, the padding comes last.
    turns = [shard[turn] for turn in range(length) for shard in shards]
    assert sorted(turns[:size]) == list(range(size))
    assert turns[size:] == (turns[:size] * world)[: length * world - size]
    assert shuffle or turns[:size] == list(range(size))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert keys(range(50)) == keys(range(50))
    assert len({tuple(keys(range(50), epoch, seed=seed)) for seed, epoch in [(1, 2), (1, 3), (2, 2), (2, 1)]}) == 4
    # It may be of some rows only.
    rows = [3, 8, 40, 41]
    assert keys(rows, shuffle=False) == sorted(keys(rows)) == rows

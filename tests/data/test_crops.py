"""Crops: coloured dots at the joints, draws by (seed, epoch, index), shards of an epoch."""

import math
from collections import Counter
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pnfs.body import Skeleton
from pnfs.data.augmentation import Augmentation
from pnfs.data.crops import CropDataset, EpochSampler, SampleKey, start_worker
from pnfs.data.geometry import apply
from pnfs.data.persons import Persons

JOINTS = ("head", "left_hand", "right_hand", "left_foot", "right_foot")
PAIRS = (("left_hand", "right_hand"), ("left_foot", "right_foot"))
TOY = Skeleton(name="toy", joints=JOINTS, flip_pairs=PAIRS, limbs=(), groups={})
PARTNERS = [0, 2, 1, 4, 3]
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
HEIGHT, WIDTH, COUNT = 220, 180, 6


@dataclass(frozen=True)
class DottedImages:
    """Black pictures with a dot of its joint's colour at every joint."""

    joints: np.ndarray

    def read(self, index: int) -> np.ndarray:
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for colour, (x, y) in zip(COLOURS, self.joints[index].tolist(), strict=True):
            cv2.circle(image, (round(x), round(y)), 5, colour, -1)
        return image

    def describe(self, index: int) -> str:
        return f"dots{index}"


def dotted_persons(visibility: np.ndarray | None = None) -> Persons:
    # Joints far from each other, so that no dot covers another; the picture is no square.
    places = np.array([[90, 60], [50, 100], [130, 110], [70, 160], [115, 150]])
    moves = np.random.default_rng(5).integers(-8, 9, (COUNT, 5, 2))
    joints = (places + moves).astype(np.float32)
    return Persons(
        name="dots/train",
        skeleton=TOY,
        images=DottedImages(joints),
        ids=np.array([f"dot{i}" for i in range(COUNT)]),
        image_index=np.arange(COUNT),
        joints=joints,
        visibility=np.full((COUNT, 5), 2, np.int8) if visibility is None else visibility,
        center=np.tile(np.float32([92, 108]), (COUNT, 1)),
        box_size=np.tile(np.float32([130, 150]), (COUNT, 1)),
        reference_length=np.linspace(10, 20, COUNT, dtype=np.float32),
    )


def dot_centre(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray | None:
    """Centre of the pixels of one pure colour, None where there are too few."""
    weights = 1 - np.abs(image / 255.0 - np.array(colour) / 255.0).max(-1)
    weights = np.where(weights > 0.6, weights, 0)
    if weights.sum() < 15:
        return None
    rows, columns = np.indices(weights.shape)
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("size", [(128, 128), (160, 96), (96, 128)])
def test_joints_lie_on_their_dots(size: tuple[int, int]) -> None:
    visibility = np.full((COUNT, 5), 2, np.int8)
    visibility[:, TOY.joints.index("left_hand")] = 0
    persons, turned = dotted_persons(visibility), Augmentation(rotation=60)
    dataset = CropDataset(persons, input_size=size, augmentation=turned, seed=3)
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
                    centre = dot_centre(sample["image"], COLOURS[row])
                    assert centre is not None
                    np.testing.assert_allclose(centre, (x, y), atol=0.6)
                    found += 1
            places = apply(sample["to_image"], sample["joints_crop"])
            np.testing.assert_allclose(places, persons.joints[index, rows], atol=1e-3)
            # Labels change sides with their joints.
            assert sample["labelled"].tolist() == (visibility[index, rows] > 0).tolist()
    assert found > 60
    assert min(flips[True], flips[False]) >= 5


STRONG = Augmentation(colour=0.7, blur=0.5, occlusion=0.5)


def test_a_sample_is_a_function_of_seed_epoch_and_index() -> None:
    def sample(seed: int, epoch: int, index: int):
        dataset = CropDataset(dotted_persons(), input_size=(64, 48), augmentation=STRONG, seed=seed)
        return dict(dataset[SampleKey(epoch, index)])

    np.testing.assert_equal(sample(1, 2, 3), sample(1, 2, 3))
    base = sample(1, 2, 3)["to_image"]
    for other in (sample(2, 2, 3), sample(1, 3, 3), sample(3, 2, 1), sample(1, 2, 4)):
        assert not np.allclose(base, other["to_image"])


def epoch_batches(workers: int, epoch: int) -> list[dict[str, torch.Tensor]]:
    sampler = EpochSampler(COUNT, seed=9)
    sampler.set_epoch(epoch)
    loader = DataLoader(
        CropDataset(dotted_persons(), input_size=(64, 48), augmentation=STRONG, seed=9),
        batch_size=2,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=start_worker,
    )
    return list(loader)


def test_workers_change_nothing_and_epochs_do() -> None:
    alone, two, later = epoch_batches(0, 1), epoch_batches(2, 1), epoch_batches(0, 2)
    torch.testing.assert_close(alone, two, rtol=0, atol=0)

    def by_person(batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        rows, images = (torch.cat([b[key] for b in batches]) for key in ("sample_index", "image"))
        assert sorted(rows.tolist()) == list(range(COUNT))
        return images[rows.argsort()]

    assert (by_person(alone) != by_person(later)).flatten(1).any(1).all()


def keys(sampler: EpochSampler) -> list[int]:
    assert len(list(sampler)) == len(sampler)
    assert {epoch for epoch, _ in sampler} <= {sampler.epoch}
    return [index for _, index in sampler]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 2), (10, 3), (10, 4), (2, 5), (1, 3)])
def test_shards_cover_everything_once_but_for_the_padding(size: int, world: int, shuffle: bool) -> None:
    shards = []
    for rank in range(world):
        sampler = EpochSampler(size, seed=1, shuffle=shuffle, rank=rank, world_size=world)
        sampler.set_epoch(6)
        shards.append(keys(sampler))
    length = math.ceil(size / world)
    assert [len(shard) for shard in shards] == [length] * world
    # In the order in which the processes take turns, the padding comes last.
    turns = [shard[turn] for turn in range(length) for shard in shards]
    assert sorted(turns[:size]) == list(range(size))
    assert turns[size:] == (turns[:size] * world)[: length * world - size]
    if not shuffle:
        assert turns[:size] == list(range(size))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int, rows=50, **options) -> list[int]:
        sampler = EpochSampler(rows, seed=seed, **options)
        sampler.set_epoch(epoch)
        return keys(sampler)

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(*key)) for key in [(1, 2), (1, 3), (2, 2), (2, 1)]}) == 4
    assert all(sorted(order(1, epoch)) == list(range(50)) for epoch in range(3))
    # It may be of some rows only.
    rows = [3, 8, 40, 41]
    assert order(0, 0, rows, shuffle=False) == sorted(order(0, 0, rows)) == rows

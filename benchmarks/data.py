"""Persons per second and core: from 1280 x 720 JPEGs, and from the crop cache."""

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import default_collate

from benchmarks.timing import Call, Section, take_turns
from pnfs.data.augmentation import Augmentation
from pnfs.data.cache import CachedCrops, CacheSettings, ensure_cache, with_crops
from pnfs.data.crops import CropDataset, SampleKey, cut_crops, load_resident
from pnfs.data.images import ImageFiles
from pnfs.data.persons import Persons
from pnfs.data.synthetic import Synthetic


def sections(*, size: int, rounds: int, persons: int = 32, **_: Any) -> Iterator[Section]:
    """One table: what a loader's core does on the way from the disk to a batch of augmented crops."""
    settings = CacheSettings(input_size=(size, size)).with_room_for(Augmentation())
    with tempfile.TemporaryDirectory() as folder:
        people = write_pictures(Path(folder), persons, (720, 1280))
        crops = ensure_cache(Path(folder) / "cache", people, settings)
        cached = with_crops(people, crops)
        ways = {
            "images": partial(from_loader, people, size),
            "cache": partial(from_loader, cached, size),
            "cache in memory, cut as a batch": partial(cut_as_batch, cached, size),
        }
        table = take_turns(ways, threads=1, rounds=rounds, items=persons)
    yield Section(f"Training crops of {size}x{size}, one core: persons", table)


def write_pictures(folder: Path, count: int, image_size: tuple[int, int]) -> Persons:
    """Synthetic people in JPEGs of photographs' size, grain and quality."""
    people = Synthetic(train=count, val=1, image_size=image_size).persons("train")
    names = [f"{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        picture = cv2.cvtColor(people.images.read(number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return replace(people, images=ImageFiles(folder, names), image_index=np.arange(count))


def _keys(people: Persons) -> Iterator[list[SampleKey]]:
    """All persons, in another epoch each time."""
    cv2.setNumThreads(1)
    for epoch in itertools.count():
        yield [SampleKey(epoch, row) for row in range(len(people))]


def from_loader(people: Persons, size: int) -> Call:
    dataset = CropDataset(people, input_size=(size, size), augmentation=Augmentation())
    keys = _keys(people)
    return lambda: default_collate([dataset[key] for key in next(keys)])


def cut_as_batch(people: Persons, size: int) -> Call:
    size_of = {"input_size": (size, size), "augmentation": Augmentation()}
    uncut, images = CropDataset(people, uncut="resident", **size_of), people.images
    assert isinstance(images, CachedCrops)
    pixels, keys = load_resident(images, len(people), torch.device("cpu")), _keys(people)
    return lambda: cut_crops(default_collate([uncut[k] for k in next(keys)]), (size, size), pixels)

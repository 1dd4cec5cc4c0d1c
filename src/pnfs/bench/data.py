"""Persons per second and core: from 1280 x 720 JPEGs, from the crop cache, and naively written out."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms import functional as TF

from pnfs.bench.timing import take_turns
from pnfs.codec.targets import gaussian_targets
from pnfs.data.augmentation import Augmentation
from pnfs.data.cache import CacheSettings, with_crops
from pnfs.data.cache_writer import ensure_cache
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.data.device import UncutCrops, cut_crops, load_resident
from pnfs.data.geometry import apply, crop_matrix, fit_box
from pnfs.data.persons import ImageFiles, Persons
from pnfs.data.synthetic import Synthetic
from pnfs.models.network import normalise_images

NAIVE, WHOLE, IMAGES, JPEG, RAW, DEVICE = (
    "naive, with normalisation and target maps",
    "images, with normalisation and target maps",
    "images",
    "cache, jpeg",
    "cache, raw",
    "cache in memory, cut as a batch",
)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STRIDE, _SIGMA = 4, 2.0


def bench_data(
    *,
    persons: int = 32,
    input_size: tuple[int, int] = (256, 256),
    image_size: tuple[int, int] = (720, 1280),
    rounds: int = 5,
) -> dict[str, Any]:
    """Times the ways from the disk to a batch of crops and joints, all in one thread.

    What a loader's core does is compared; the naive way makes the network's input and target maps
    too, and is compared with ours where that does so as well (in training, the device does).

    Args:
        persons: Persons in a batch, each in a picture of its own.
        input_size: (height, width) of the crops.
        image_size: (height, width) of the JPEGs.
        rounds: Of which the median is taken.

    Returns:
        "ratios" of persons per second; "persons_per_second" and "persons_per_second_range" (slowest
        and fastest round) by way; and what the pictures are: "jpeg_kilobytes" on average,
        "box_pixels", the median width of the person box in the crop's shape, and "cores".
    """
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            people = write_pictures(Path(folder), persons, image_size)
            ways = _ways(people, Path(folder), input_size)
            times = take_turns(ways, rounds=rounds, repeats=1, warm_up=1)
            kilobytes = mean(path.stat().st_size for path in Path(folder).glob("*.jpg")) / 1e3
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    rates = {name: persons / timing.median for name, timing in times.items()}
    boxes = fit_box(people.box_size, input_size[1] / input_size[0])
    return {
        "ratios": {
            f"{JPEG} / {IMAGES}": rates[JPEG] / rates[IMAGES],
            f"{RAW} / {IMAGES}": rates[RAW] / rates[IMAGES],
            f"{DEVICE} / {IMAGES}": rates[DEVICE] / rates[IMAGES],
            f"{WHOLE} / {NAIVE}": rates[WHOLE] / rates[NAIVE],
        },
        "persons_per_second": rates,
        "persons_per_second_range": {
            name: (persons / timing.high, persons / timing.low) for name, timing in times.items()
        },
        "jpeg_kilobytes": kilobytes,
        "box_pixels": median(boxes[:, 0].tolist()),
        "input_size": input_size,
        "cores": os.cpu_count(),
    }


def write_pictures(folder: Path, count: int, image_size: tuple[int, int]) -> Persons:
    """Synthetic people in JPEGs of photographs' size, grain and quality."""
    people = Synthetic(train=count, val=1, image_size=image_size, noise=12).persons("train")
    names = [f"{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        picture = cv2.cvtColor(people.images.read(number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return replace(people, images=ImageFiles(folder, names), image_index=np.arange(count))


def _ways(
    people: Persons, folder: Path, input_size: tuple[int, int]
) -> dict[str, Callable[[], object]]:
    """Each makes one batch of all persons, of another epoch at each call."""
    augmentation = Augmentation()
    settings = CacheSettings(input_size=input_size).with_room_for(augmentation)
    cached = {
        name: with_crops(
            people,
            ensure_cache(
                folder / "cache", people, replace(settings, format=name), report=lambda _: None
            ),
        )
        for name in ("jpeg", "raw")
    }
    rows = np.arange(len(people))
    uncut = UncutCrops(
        cached["jpeg"], input_size=input_size, augmentation=augmentation, resident=True
    )
    pixels = load_resident(cached["jpeg"], torch.device("cpu"))
    epochs: dict[str, int] = dict.fromkeys((NAIVE, WHOLE, IMAGES, JPEG, RAW, DEVICE), 0)

    def next_epoch(name: str) -> int:
        epochs[name] += 1
        return epochs[name]

    def from_loader(name: str, persons: Persons) -> Callable[[], object]:
        dataset = CropDataset(persons, input_size=input_size, augmentation=augmentation)

        def batch() -> object:
            epoch = next_epoch(name)
            made = default_collate([dataset[SampleKey(epoch, int(row))] for row in rows])
            return _prepared(made) if name == WHOLE else made

        return batch

    def from_device() -> object:
        epoch = next_epoch(DEVICE)
        samples = [uncut[SampleKey(epoch, int(row))] for row in rows]
        return cut_crops(default_collate(samples), input_size, pixels)

    def naive() -> object:
        epoch = next_epoch(NAIVE)
        items = [naive_sample(people, SampleKey(epoch, int(r)), input_size) for r in rows]
        return torch.stack([item[0] for item in items]), torch.stack([item[1] for item in items])

    return {
        NAIVE: naive,
        WHOLE: from_loader(WHOLE, people),
        IMAGES: from_loader(IMAGES, people),
        JPEG: from_loader(JPEG, cached["jpeg"]),
        RAW: from_loader(RAW, cached["raw"]),
        DEVICE: from_device,
    }


def _prepared(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What the training step makes of a batch before the network: its input, and target maps."""
    height, width = batch["image"].shape[1:3]
    targets, _ = gaussian_targets(
        batch["joints_crop"],
        batch["labelled"],
        heatmap_size=(height // _STRIDE, width // _STRIDE),
        stride=float(_STRIDE),
        sigma=_SIGMA,
    )
    return normalise_images(batch["image"]), targets


def naive_sample(
    people: Persons, key: SampleKey, input_size: tuple[int, int]
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "K h4 w4"]]:
    """A sample as public code writes it: decode, convert, warp, ToTensor, Normalize, one map a joint."""
    files = people.images
    assert isinstance(files, ImageFiles)
    path = files.root / str(files.paths[people.image_index[key.index]])
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert image is not None
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    draw = Augmentation().draw(np.random.default_rng([0, *key]))
    height, width = input_size
    box = fit_box(people.box_size[key.index], width / height) * draw.scale
    matrix = crop_matrix(
        people.center[key.index], box, draw.rotation_degrees, input_size, draw.flip
    )
    crop = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    tensor = TF.normalize(TF.to_tensor(crop), list(_MEAN), list(_STD))
    joints = apply(matrix, people.joints[key.index])
    return tensor, torch.from_numpy(naive_targets(joints, people.visibility[key.index], input_size))


def naive_targets(
    joints: Float[np.ndarray, "K 2"], visibility: np.ndarray, input_size: tuple[int, int]
) -> Float[np.ndarray, "K h w"]:
    """HRNet's `generate_target`: a patch of a Gaussian is copied into each joint's map."""
    height, width = input_size[0] // _STRIDE, input_size[1] // _STRIDE
    maps = np.zeros((len(joints), height, width), np.float32)
    reach = int(3 * _SIGMA)
    offsets = np.arange(2 * reach + 1, dtype=np.float32) - reach
    for joint, (x, y) in enumerate(joints):
        column, row = int(x / _STRIDE + 0.5), int(y / _STRIDE + 0.5)
        left, top = column - reach, row - reach
        right, bottom = column + reach + 1, row + reach + 1
        if left >= width or top >= height or right < 0 or bottom < 0 or visibility[joint] == 0:
            continue
        patch = np.exp(-(offsets**2 + offsets[:, None] ** 2) / (2 * _SIGMA**2))
        across = slice(max(0, -left), min(right, width) - left)
        down = slice(max(0, -top), min(bottom, height) - top)
        maps[joint, max(0, top) : min(bottom, height), max(0, left) : min(right, width)] = patch[
            down, across
        ]
    return maps

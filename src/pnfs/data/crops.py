"""Crops of persons for training and evaluation, and the order in which they come.

Crops are cut by the loader's processes, or whole batches on the device by Lightning's batch hook. Draws, joints
and matrices are the loader's either way; OpenCV interpolates at multiples of 1/32 pixel.
"""

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, TypedDict

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from pnfs.data.augmentation import AffineDraw, Augmentation
from pnfs.data.cache import CachedCrops
from pnfs.data.geometry import apply, compose, crop_extent, crop_matrix, fit_box, invert
from pnfs.data.images import DataError, view_of
from pnfs.data.persons import Persons

SAMPLING, CACHED = "sampling", "cached_crop"


class SampleKey(NamedTuple):
    """With the seed, it determines all random numbers of a sample."""

    epoch: int
    index: int


class PoseBatch(TypedDict):
    """What a loader hands over; B crops of one size (h, w)."""

    image: Tensor  # uint8 (B, h, w, 3), RGB.
    joints_crop: Tensor  # float32 (B, K, 2), x, y in pixels of the crop.
    labelled: Tensor  # bool (B, K).
    to_image: Tensor  # float32 (B, 2, 3), crop pixels to image pixels.
    joints_image: Tensor  # float32 (B, K, 2), x, y in pixels of the image.
    reference_length: Tensor  # float32 (B,).
    sample_index: Tensor  # int64 (B,), row of the split's `Persons`.


class CropDataset(Dataset):
    """One crop of (height, width) a person, by one affine map: box, scale, rotation and flip together.

    Without augmentation crops are plain. With `reduced_decoding` no more of an image is decoded than the crop
    needs, where its source can do so (`view_of`): crops differ by 1 to 3 grey levels. `unbiased`: see
    `crop_matrix`.

    With `uncut`, samples of cached persons have what `cut_crops` makes "image" of in its place: "sampling" (2, 3),
    the map from pixels of the crop to those of the cached one, which comes along as "cached_crop" (H, W, 3) unless
    it is "resident" on the device.
    """

    def __init__(
        self,
        persons: Persons,
        *,
        input_size: tuple[int, int],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        reduced_decoding: bool = True,
        unbiased: bool = False,
        uncut: Literal["resident", "sent"] | None = None,
    ) -> None:
        self.persons, self.input_size, self.augmentation = persons, input_size, augmentation
        self.seed, self.reduced_decoding, self.unbiased, self.uncut = seed, reduced_decoding, unbiased, uncut
        self._permutation = persons.skeleton.flip_permutation

    def __len__(self) -> int:
        return len(self.persons)

    def __getitem__(self, key: SampleKey | int) -> Mapping[str, np.ndarray | np.generic]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        persons, draw, random = self.persons, AffineDraw(), np.random.default_rng([self.seed, epoch, index])
        if self.augmentation is not None:
            draw = self.augmentation.draw(random)
        width, height = crop_extent(self.input_size, self.unbiased)
        box = fit_box(persons.box_size[index], width / height) * draw.scale
        matrix = crop_matrix(
            persons.center[index], box, draw.rotation_degrees, self.input_size, draw.flip, self.unbiased
        )  # fmt: skip
        # The matrix mirrors the coordinates; left and right joints change places too.
        rows = self._permutation if draw.flip else slice(None)
        joints = persons.joints[index][rows]
        return {
            **self._pixels(index, matrix, random),
            "joints_crop": apply(matrix, joints).astype(np.float32),
            "labelled": persons.visibility[index][rows] > 0,
            "to_image": invert(matrix).astype(np.float32),
            "joints_image": joints,
            "reference_length": np.float32(persons.reference_length[index]),
            "sample_index": np.int64(index),
        }

    def _pixels(self, index: int, matrix: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
        """The entry "image" of a sample, `matrix` taking the image to its crop, or what it is made of."""
        images = self.persons.images
        if self.uncut:
            assert isinstance(images, CachedCrops)
            cached, place = (None, images.place(index)) if self.uncut == "resident" else images.view(index, 1.0)
            found = {SAMPLING: compose(invert(place), invert(matrix)).astype(np.float32)}
            return found if cached is None else found | {CACHED: np.require(cached, requirements="W")}
        zoom = 1 / math.hypot(matrix[0, 0], matrix[0, 1]) if self.reduced_decoding else 1.0
        image, to_image = view_of(images, int(self.persons.image_index[index]), zoom)
        crop = cv2.warpAffine(image, compose(matrix, to_image), self.input_size[::-1])
        return {"image": crop if self.augmentation is None else self.augmentation.change_pixels(crop, random)}


class EpochSampler(Sampler[SampleKey]):
    """Keys of `rows` in an epoch, shuffled by (seed, epoch) unless `shuffle` is False, shared out among processes:
    each gets the same number, the last ones are filled up from the beginning."""

    def __init__(
        self, rows: Sequence[int], *, seed: int, shuffle: bool = True, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows, self.seed, self.shuffle, self.rank, self.world_size = rows, seed, shuffle, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, but for the first after a start: there the loader is open
        already, and `PoseDataModule` has set the epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.world_size)

    def __iter__(self) -> Iterator[SampleKey]:
        order = np.asarray(self.rows)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        order = np.resize(order, len(self) * self.world_size)[self.rank :: self.world_size]
        return (SampleKey(self.epoch, index) for index in order.tolist())


def start_worker(_: int) -> None:
    """One thread a worker: more would compete for the same cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # A signal to the process group is the main process's to answer, which then ends its workers.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


# --- crops cut on the device


def cut_crops(
    batch: dict[str, Tensor], input_size: tuple[int, int], resident: UInt8[Tensor, "N H W 3"] | None = None
) -> PoseBatch:
    """A batch of `uncut` samples with its crops of `input_size`: bilinear, black outside of the cached crop.

    `resident` are the cached crops of all persons, on the batch's device, for samples without their own.
    """
    rest = {name: value for name, value in batch.items() if name not in (SAMPLING, CACHED)}
    sampling: Float[Tensor, "B 2 3"] = batch[SAMPLING]
    cached = batch[CACHED] if resident is None else resident[batch["sample_index"]]
    y, x = (torch.arange(side, device=cached.device, dtype=torch.float32) for side in input_size)
    # Written out: a matrix product may run in reduced precision, half a pixel off.
    rows = sampling[:, :, :, None, None]
    place = rows[:, :, 0] * x + rows[:, :, 1] * y[:, None] + rows[:, :, 2]
    sides = (cached.shape[2] - 1, cached.shape[1] - 1)
    grid = torch.stack([2 * place[:, axis] / sides[axis] - 1 for axis in (0, 1)], -1)
    pixels = cached.permute(0, 3, 1, 2).float()
    image = F.grid_sample(pixels, grid, padding_mode="zeros", align_corners=True)
    image = image.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return {"image": image, **rest}  # type: ignore[typeddict-item, return-value]


def load_resident(
    crops: CachedCrops, count: int, device: torch.device, threads: int = 1
) -> UInt8[Tensor, "N H W 3"]:
    """The cached crops of all `count` persons on a device; DataError if one is damaged, or memory is lacking."""
    shape = (count, *crops.settings.crop_size, 3)
    try:
        pixels = torch.empty(shape, dtype=torch.uint8, device=device)
    except RuntimeError:
        size = f"{math.prod(shape) / 1e9:.1f} GB of memory"
        raise DataError(f"{crops.path}: {device} lacks {size} for its crops; set data.resident=false") from None
    # Some at a time: what is read, and waits for its transfer, takes memory of the host.
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for start in track(range(0, count, 256), f"crops to {device}", transient=True):
            read = list(pool.map(lambda row: crops.view(row, 1.0)[0], range(start, min(start + 256, count))))
            pixels[start : start + 256] = torch.from_numpy(np.stack(read)).to(device)
    return pixels

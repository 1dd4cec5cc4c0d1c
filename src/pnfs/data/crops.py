"""Crops of persons for training and evaluation, and the order in which they come.

Crops are cut by the loader's processes, or whole batches on the device by Lightning's batch hook. Draws, joints
and matrices are the loader's either way; the pixels differ by interpolation alone: OpenCV's places are multiples
of 1/32 pixel.
"""

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypedDict

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from pnfs.data.augmentation import AffineDraw, Augmentation
from pnfs.data.cache import CachedCrops
from pnfs.data.geometry import apply, compose, crop_extent, crop_matrix, fit_box, invert
from pnfs.data.images import DataError, view_of
from pnfs.data.persons import Persons
from pnfs.errors import PnfsError


class SampleKey(NamedTuple):
    """Names one draw: every random number of a sample is a function of the seed and this."""

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
    ) -> None:
        self.persons, self.input_size, self.augmentation = persons, input_size, augmentation
        self.seed, self.reduced_decoding, self.unbiased = seed, reduced_decoding, unbiased
        self._permutation = persons.skeleton.flip_permutation

    def __len__(self) -> int:
        return len(self.persons)

    def __getitem__(self, key: SampleKey | int) -> Mapping[str, np.ndarray | np.generic]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        persons, draw, random = self.persons, AffineDraw(), None
        if self.augmentation is not None:
            random = np.random.default_rng([self.seed, epoch, index])
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
            **self.pixels(index, matrix, random),
            "joints_crop": apply(matrix, joints).astype(np.float32),
            "labelled": persons.visibility[index][rows] > 0,
            "to_image": invert(matrix).astype(np.float32),
            "joints_image": joints,
            "reference_length": np.float32(persons.reference_length[index]),
            "sample_index": np.int64(index),
        }

    def pixels(self, index: int, matrix: np.ndarray, random: np.random.Generator | None) -> dict[str, np.ndarray]:
        """The entry "image" of a sample: row, map from image to crop, what the geometry was drawn from."""
        zoom = 1 / math.hypot(matrix[0, 0], matrix[0, 1]) if self.reduced_decoding else 1.0
        image, to_image = view_of(self.persons.images, int(self.persons.image_index[index]), zoom)
        crop = cv2.warpAffine(image, compose(matrix, to_image), self.input_size[::-1])
        if random is not None and self.augmentation is not None:
            crop = self.augmentation.change_pixels(crop, random)
        return {"image": crop}


class EpochSampler(Sampler[SampleKey]):
    """Keys of an epoch, shuffled by (seed, epoch) unless `shuffle` is False, shared out among processes.

    `rows` are those to draw from, or their number, for all of them. Each process gets the same number of keys, the
    last ones are filled up from the beginning.
    """

    def __init__(
        self,
        rows: int | Sequence[int] | np.ndarray,
        *,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.rows = np.arange(rows) if isinstance(rows, int) else np.asarray(rows)
        self.seed, self.shuffle, self.rank, self.world_size = seed, shuffle, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, but for the first after a start: there the loader is open
        already, and `PoseDataModule` has set the epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.world_size)

    def order(self) -> Int64[np.ndarray, " n"]:
        """The rows of this epoch for this process."""
        order = self.rows
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        return np.resize(order, len(self) * self.world_size)[self.rank :: self.world_size]

    def __iter__(self) -> Iterator[SampleKey]:
        return (SampleKey(self.epoch, index) for index in self.order().tolist())


def start_worker(_: int) -> None:
    """Workers are one process each; threads of their own would only get in each other's way."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # A signal to the process group is the main process's to answer, which then ends its workers.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


# --- crops cut on the device

SAMPLING, CACHED = "sampling", "cached_crop"


class UncutCrops(CropDataset):
    """Samples with what `cut_crops` makes "image" of, in its place; persons are those of `with_crops`.

    "sampling" (2, 3) takes pixels of the crop to those of the cached crop, "cached_crop" (H, W, 3) is that one,
    which does not come along where it is `resident` on the device. Options are those of `CropDataset`.
    """

    def __init__(self, persons: Persons, *, resident: bool = False, **options: Any) -> None:
        super().__init__(persons, **options)
        self.resident = resident
        require_geometry_alone(self.augmentation)

    def pixels(self, index: int, matrix: np.ndarray, random: Any) -> dict[str, np.ndarray]:
        crops = _cached(self.persons)
        if self.resident:
            place, found = crops.place(index), {}
        else:
            cached, place = crops.view(index, 1.0)
            found = {CACHED: np.require(cached, requirements="W")}
        return found | {SAMPLING: compose(invert(place), invert(matrix)).astype(np.float32)}


def _cached(persons: Persons) -> CachedCrops:
    assert isinstance(persons.images, CachedCrops)
    return persons.images


def require_geometry_alone(augmentation: Augmentation | None) -> None:
    """Raises PnfsError for an augmentation that changes colours, blurs or blots out."""
    for name in ("colour", "blur", "occlusion"):
        if getattr(augmentation, name, 0) > 0:
            raise PnfsError(
                f"augmentation.{name}={getattr(augmentation, name)} is made by the loader alone: "
                f"set data.augment=loader, or augmentation.{name}=0"
            )


def cut_crops(
    batch: dict[str, Tensor],
    input_size: tuple[int, int],
    resident: UInt8[Tensor, "N H W 3"] | None = None,
) -> PoseBatch:
    """The batch with its crops of `input_size`, on its device: bilinear, black outside of the cached crop.

    `batch` are samples of `UncutCrops`, collated; `resident` cached crops of all persons, on the same device, for
    samples without their own.
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


def fits(persons: Persons, device: torch.device) -> bool:
    """Whether the cached crops take less than 60 % of a CUDA device's free memory; False on other devices."""
    if device.type != "cuda":
        return False
    size = 3 * len(persons) * math.prod(_cached(persons).settings.crop_size)
    return size < 0.6 * torch.cuda.mem_get_info(device)[0]


def load_resident(persons: Persons, device: torch.device, threads: int = 1) -> UInt8[Tensor, "N H W 3"]:
    """The cached crops of all persons on a device, each checked against its checksum on the way.

    Raises DataError if a crop is damaged, or the device has too little memory.
    """
    crops = _cached(persons)
    shape = (len(persons), *crops.settings.crop_size, 3)
    try:
        pixels = torch.empty(shape, dtype=torch.uint8, device=device)
    except RuntimeError:
        raise DataError(
            f"{crops.path}: its crops take {math.prod(shape) / 1e9:.1f} GB of memory, which "
            f"{device} does not have; set data.resident=false"
        ) from None
    # Some at a time: what is read, and waits for its transfer, takes memory of the host.
    starts = track(range(0, len(persons), 256), f"crops to {device}", transient=True)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for start in starts:
            rows = range(start, min(start + 256, len(persons)))
            read = list(pool.map(lambda row: crops.view(row, 1.0)[0], rows))
            pixels[start : start + 256] = torch.from_numpy(np.stack(read)).to(device)
    return pixels

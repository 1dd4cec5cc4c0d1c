"""Crops of persons for training and evaluation, and the order in which they come."""

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypedDict

import cv2
import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pnfs.data.augmentation import AffineDraw, Augmentation
from pnfs.data.geometry import apply, compose, crop_extent, crop_matrix, fit_box, invert
from pnfs.data.images import view_of
from pnfs.data.persons import Persons


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
        self.persons = persons
        self.input_size = input_size
        self.augmentation = augmentation
        self.seed = seed
        self.reduced_decoding = reduced_decoding
        self.unbiased = unbiased
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

    def pixels(
        self, index: int, matrix: np.ndarray, random: np.random.Generator | None
    ) -> dict[str, np.ndarray]:
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

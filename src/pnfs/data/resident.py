"""Loaders whose batches are finished on the device: from a stream of cached crops, or from memory."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import UInt8
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pnfs.data.cache import CachedCrops
from pnfs.data.dataset import EpochSampler, PoseBatch, SampleKey, start_worker
from pnfs.data.device import BatchCropper, Columns
from pnfs.data.persons import DataError

_SHARE_OF_MEMORY = 0.6
"""Of the device's free memory that `fits` gives to crops; the rest is for training."""


class DeviceLoader:
    """Batches that are cut and augmented on a device; what a Lightning trainer takes as a loader.

    Args:
        cropper: Cuts the crops.
        pixels: The cached crops of all persons, on the device; None reads those of each batch from
            the cache, in `workers` processes.
        sampler: The order; the epoch's number comes from it.
        batch_size: Persons in a batch.
        device: Where batches are made.
        drop_last: Leave out a last, smaller batch.
        workers: Processes that read the cache; 0 reads in this one.
    """

    batch_sampler = None
    """Lightning looks for one beside a sampler."""

    def __init__(
        self,
        cropper: BatchCropper,
        *,
        pixels: UInt8[Tensor, "N H W 3"] | None,
        sampler: EpochSampler,
        batch_size: int,
        device: torch.device,
        drop_last: bool = False,
        workers: int = 0,
    ) -> None:
        self.cropper = cropper
        self.pixels = pixels
        self.sampler = sampler
        self.batch_size = batch_size
        self.device = device
        self.drop_last = drop_last
        self._reader = None if pixels is not None else self._read_cache(workers)

    def __len__(self) -> int:
        size = len(self.sampler)
        return size // self.batch_size if self.drop_last else -(-size // self.batch_size)

    def __iter__(self) -> Iterator[PoseBatch]:
        order, epoch = self.sampler.order(), self.sampler.epoch
        # One transfer an epoch; a batch is a slice of it.
        columns = self._on_device(self.cropper.columns(epoch, order))
        reader = iter(()) if self._reader is None else iter(self._reader)
        for number in range(len(self)):
            rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
            of_batch = {name: column[rows] for name, column in columns.items()}
            if self.pixels is None:
                pixels = next(reader).to(self.device, non_blocking=True)
            else:
                pixels = self.pixels[of_batch["image_index"]]
            yield self.cropper.batch(pixels, of_batch)

    def _on_device(self, columns: Columns) -> Columns:
        if self.device.type == "cuda":
            columns = {name: column.pin_memory() for name, column in columns.items()}
        return {name: c.to(self.device, non_blocking=True) for name, c in columns.items()}

    def _read_cache(self, workers: int) -> DataLoader:
        return DataLoader(
            _CropReader(self.cropper),
            batch_size=self.batch_size,
            sampler=self.sampler,
            num_workers=workers,
            worker_init_fn=start_worker,
            persistent_workers=workers > 0,
            drop_last=self.drop_last,
            pin_memory=self.device.type == "cuda",
        )


class _CropReader(Dataset):
    def __init__(self, cropper: BatchCropper) -> None:
        self.crops = cropper.crops
        self.image_index = cropper.persons.image_index

    def __getitem__(self, key: SampleKey) -> UInt8[Tensor, "H W 3"]:
        return torch.from_numpy(self.crops.crop(int(self.image_index[key.index])).copy())


def resident_bytes(crops: CachedCrops) -> int:
    """Memory that the crops take on a device."""
    height, width = crops.settings.crop_size
    return len(crops) * height * width * 3


def fits(crops: CachedCrops, device: torch.device) -> bool:
    """Whether the crops leave a CUDA device enough memory to train; False on other devices."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return resident_bytes(crops) < _SHARE_OF_MEMORY * free


def load_resident(
    crops: CachedCrops, device: torch.device, threads: int = 1
) -> UInt8[Tensor, "N H W 3"]:
    """All crops of a cache on a device, each checked against its checksum on the way.

    Raises:
        DataError: A crop is damaged, or the device has too little memory.
    """
    try:
        pixels = torch.empty(
            (len(crops), *crops.settings.crop_size, 3), dtype=torch.uint8, device=device
        )
    except (torch.OutOfMemoryError, RuntimeError):
        raise DataError(
            f"{crops.folder}: its crops take {resident_bytes(crops) / 1e9:.1f} GB of memory, which "
            f"{device} does not have; set resident=false"
        ) from None
    # Some at a time: what is read, and waits for its transfer, takes memory of the host.
    starts = range(0, len(crops), 256)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for start in track(starts, description=f"crops to {device}", transient=True):
            rows = range(start, min(start + 256, len(crops)))
            host = torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.uint8)
            for row, crop in zip(range(len(rows)), pool.map(crops.crop, rows), strict=True):
                host[row] = torch.from_numpy(crop.copy())
            pixels[rows.start : rows.stop] = host.to(device)
    return pixels

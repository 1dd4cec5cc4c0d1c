"""The data of a run as a LightningDataModule."""

from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pnfs.data import device as on_device
from pnfs.data.augmentation import Augmentation
from pnfs.data.cache import CacheSettings, Format, with_crops
from pnfs.data.cache_writer import ensure_cache
from pnfs.data.crops import CropDataset, EpochSampler, PoseBatch, start_worker
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.persons import Persons
from pnfs.errors import PnfsError

Augment = Literal["loader", "device"]


class PoseDataModule(L.LightningDataModule):
    """Loaders of one dataset's splits.

    Args:
        source: The dataset.
        input_size: (height, width) of the crops.
        batch_size: Persons in a training batch, in each process.
        workers: Loader processes; 0 loads in the training process.
        seed: Seed of order and augmentation.
        drop_last: Leave out a last, smaller training batch.
        unbiased, reduced_decoding: See `CropDataset`.
        cache: Folder for crop caches, of format jpeg or raw, written on first use. None reads images.
        augment: Where training crops are cut: in the loader's processes ("loader"), or whole batches on
            the device ("device", which needs a cache, and an augmentation of geometry alone).
        resident: With augment="device", keep the cached crops for training in the device's memory.
            "auto": on a CUDA device where they fit.

    Raises:
        PnfsError: A choice that there is not, or one that excludes another; the message names the key.
    """

    def __init__(
        self,
        *,
        source: PoseDataset,
        input_size: tuple[int, int],
        batch_size: int,
        eval_batch_size: int | None = None,
        workers: int = 2,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        drop_last: bool = True,
        unbiased: bool = False,
        reduced_decoding: bool = True,
        cache: Path | str | None = None,
        cache_format: Format = "jpeg",
        augment: Augment = "loader",
        resident: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        if augment == "device":
            on_device.require_geometry_alone(augmentation)
            if cache is None:
                raise PnfsError("data.augment=device needs a crop cache: set data.cache=<folder>")
        self.source, self.input_size, self.workers, self.seed = source, input_size, workers, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.augmentation, self.drop_last = augmentation, drop_last
        self.unbiased, self.reduced_decoding = unbiased, reduced_decoding
        self.cache = cache
        self.cache_format: Format = cache_format
        self.augment: Augment = augment
        self.resident = resident
        self.weight_rows: list[int] | None = None
        self.architecture_rows: list[int] | None = None
        # The epoch that the first training loader begins with: a trainer opens the loader, whose processes
        # start at once, before it says which epoch it trains.
        self.next_epoch = 0
        self._cached: dict[tuple[str, CacheSettings], Persons] = {}
        self._resident: Tensor | None = None

    def dataset(self, split: str, augmentation: Augmentation | None = None) -> CropDataset:
        """The crops of a split."""
        return CropDataset(self.persons(split, augmentation), **self._crop_options(augmentation))

    def _crop_options(self, augmentation: Augmentation | None) -> dict[str, Any]:
        names = ("input_size", "seed", "unbiased", "reduced_decoding")
        return {name: getattr(self, name) for name in names} | {"augmentation": augmentation}

    def persons(self, split: str, augmentation: Augmentation | None = None) -> Persons:
        """The persons of a split; with a cache, its crops with room for an augmentation, not their images.

        Raises:
            DataError: The cache cannot be written or is damaged.
        """
        persons = self.source.persons(split)
        if self.cache is None:
            return persons
        # Plain crops of training persons come from the cache that training needs anyway.
        room_for = self.augmentation if augmentation is None and split == "train" else augmentation
        needed = CacheSettings(
            input_size=self.input_size,
            format=self.cache_format,
            reduced_decoding=self.reduced_decoding,
        ).with_room_for(room_for)
        if (split, needed) not in self._cached:
            path = ensure_cache(self.cache, persons, needed, workers=self.workers)
            self._cached[split, needed] = with_crops(persons, path)
        return self._cached[split, needed]

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps: the epoch to train next."""
        assert self.trainer is not None
        return {"next_epoch": self.trainer.current_epoch + 1}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.next_epoch = state_dict["next_epoch"]

    def split_train(self, share: float, seed: int) -> tuple[list[int], list[int]]:
        """Divides the training persons by chance: rows for the weights, a share for the architecture parameters.

        Raises:
            PnfsError: One of the two would be empty.
        """
        total = len(self.source.persons("train"))
        for_architecture = round(share * total)
        if not 0 < for_architecture < total:
            raise PnfsError(f"a share of {share} of {total} persons leaves one side without any")
        shuffled = np.random.default_rng([seed, total]).permutation(total)
        self.architecture_rows = sorted(shuffled[:for_architecture].tolist())
        self.weight_rows = sorted(shuffled[for_architecture:].tolist())
        return self.weight_rows, self.architecture_rows

    def train_dataloader(self) -> DataLoader:
        return self._train_loader(self.weight_rows, self.seed, self.augment)

    def first_batch(self) -> PoseBatch:
        """The first training batch as the loader cuts it, on the CPU, with or without a trainer."""
        return next(iter(self._train_loader(self.weight_rows, self.seed, "loader")))

    def architecture_dataloader(self) -> DataLoader:
        """Augmented crops of the persons that `split_train` set aside."""
        if self.architecture_rows is None:
            raise RuntimeError("split_train has not divided the training persons yet")
        # Another order than the weights' loader has.
        return self._train_loader(self.architecture_rows, self.seed + 1, self.augment)

    def _train_loader(
        self, rows: list[int] | None, order_seed: int, augment: Augment
    ) -> DataLoader:
        size = len(self.source.persons("train")) if rows is None else len(rows)
        drop_last = self.drop_last and -(-size // self._rank()[1]) >= self.batch_size
        sampler = self._sampler(size if rows is None else rows, order_seed, shuffle=True)
        sampler.set_epoch(self.next_epoch)
        if augment == "loader":
            dataset = self.dataset("train", self.augmentation)
        else:
            persons, options = (
                self.persons("train", self.augmentation),
                self._crop_options(self.augmentation),
            )
            dataset = on_device.UncutCrops(persons, resident=self._keep_resident(), **options)
        return self._loader(dataset, sampler, self.batch_size, drop_last)

    def val_dataloader(self) -> DataLoader:
        return self.eval_dataloader("val")

    def eval_dataloader(self, split: str) -> DataLoader:
        """Plain crops of any split, in the dataset's order."""
        dataset = self.dataset(split)
        sampler = self._sampler(len(dataset), self.seed, shuffle=False)
        return self._loader(dataset, sampler, self.eval_batch_size, False)

    def _sampler(self, rows: int | list[int], seed: int, shuffle: bool) -> EpochSampler:
        rank, world_size = self._rank()
        return EpochSampler(rows, seed=seed, shuffle=shuffle, rank=rank, world_size=world_size)

    def _loader(
        self, dataset: CropDataset, sampler: EpochSampler, batch_size: int, drop_last: bool
    ) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.workers,
            worker_init_fn=start_worker,
            persistent_workers=self.workers > 0,
            drop_last=drop_last,
            pin_memory=self._device().type == "cuda",
        )

    def _keep_resident(self) -> bool:
        """Whether the cached crops for training lie on the trainer's device; loads them if they shall."""
        if self.trainer is None or self.resident is False:
            return False
        persons, device = self.persons("train", self.augmentation), self._device()
        if self._resident is None and (self.resident is True or on_device.fits(persons, device)):
            self._resident = on_device.load_resident(persons, device, max(1, self.workers))
        return self._resident is not None

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> PoseBatch:
        """Cuts the crops that the loader has left to the device (see `UncutCrops`).

        Lightning calls this for each batch; who iterates a training loader by hand does so too.
        """
        return (
            on_device.cut_crops(batch, self.input_size, self._resident)
            if on_device.SAMPLING in batch
            else batch
        )

    def teardown(self, stage: str) -> None:
        """Gives the device's memory back after training."""
        self._resident = None

    def _rank(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

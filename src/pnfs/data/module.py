"""The data of a run as a LightningDataModule."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pnfs.data import crops
from pnfs.data.augmentation import Augmentation
from pnfs.data.cache import CachedCrops, CacheSettings, Format, ensure_cache, with_crops
from pnfs.data.crops import CropDataset, EpochSampler, PoseBatch
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.persons import Persons
from pnfs.errors import PnfsError

Augment = Literal["loader", "device"]


class PoseDataModule(L.LightningDataModule):
    """Loaders of one dataset's splits.

    Crops have the (height, width) `input_size`; a training batch has `batch_size` persons in each process, a last,
    smaller one is left out; `workers` are loader processes. `cache` is a folder for crop caches, written on first
    use; None reads images. Training crops are cut in the loader's processes (`augment`="loader"), or whole batches
    on the device ("device", which needs a cache, and an augmentation of geometry alone), whose memory keeps the
    cached crops if `resident` ("auto": on a CUDA device where they fit). Other arguments are `CropDataset`'s.
    """

    def __init__(
        self,
        *,
        dataset: PoseDataset,
        input_size: tuple[int, int],
        batch_size: int,
        eval_batch_size: int | None = None,
        workers: int = 2,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        unbiased: bool = False,
        reduced_decoding: bool = True,
        cache: Path | str | None = None,
        cache_format: Format = "jpeg",
        augment: Augment = "loader",
        resident: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        if augment == "device":
            made = [name for name in ("colour", "blur", "occlusion") if getattr(augmentation, name, 0) > 0]
            if made:
                raise PnfsError(f"augmentation.{made[0]} is made by the loader alone: set data.augment=loader")
            if cache is None:
                raise PnfsError("data.augment=device needs a crop cache: set data.cache=<folder>")
        self.dataset, self.input_size, self.workers, self.seed = dataset, input_size, workers, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.augmentation, self.augment, self.resident = augmentation, augment, resident
        self.unbiased, self.reduced_decoding = unbiased, reduced_decoding
        self.cache = cache
        self.cache_format: Format = cache_format
        self.weight_rows: list[int] | None = None
        self.architecture_rows: list[int] | None = None
        # The epoch that the first training loader begins with: a trainer opens the loader, whose processes
        # start at once, before it says which epoch it trains.
        self.next_epoch = 0
        self._cached: dict[tuple[str, CacheSettings], Persons] = {}
        self._resident: Tensor | None = None

    def crop_dataset(self, split: str, augmentation: Augmentation | None = None, **options: Any) -> CropDataset:
        """The crops of a split."""
        names = ("input_size", "seed", "unbiased", "reduced_decoding")
        options |= {name: getattr(self, name) for name in names}
        return CropDataset(self.persons(split, augmentation), augmentation=augmentation, **options)

    def persons(self, split: str, augmentation: Augmentation | None = None) -> Persons:
        """The persons of a split; with a cache, its crops with room for an augmentation, not their images."""
        persons = self.dataset.persons(split)
        if self.cache is None:
            return persons
        # Plain crops of training persons come from the cache that training needs anyway.
        room_for = self.augmentation if augmentation is None and split == "train" else augmentation
        options = {name: getattr(self, name) for name in ("reduced_decoding", "unbiased")}
        needed = CacheSettings(self.input_size, format=self.cache_format, **options).with_room_for(room_for)
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

        Raises PnfsError if one of the two would be empty.
        """
        total = len(self.dataset.persons("train"))
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
        """Augmented crops of the persons that `split_train` set aside, in another order than the weights'."""
        assert self.architecture_rows is not None
        return self._train_loader(self.architecture_rows, self.seed + 1, self.augment)

    def _train_loader(self, rows: list[int] | None, seed: int, augment: str) -> DataLoader:
        uncut = None if augment == "loader" else "resident" if self._keep_resident() else "sent"
        dataset = self.crop_dataset("train", self.augmentation, uncut=uncut)
        rows = list(range(len(dataset))) if rows is None else rows
        return self._loader(dataset, rows, seed, self.batch_size, train=True)

    def val_dataloader(self) -> DataLoader:
        return self.eval_dataloader("val")

    def eval_dataloader(self, split: str) -> DataLoader:
        """Plain crops of any split, in the dataset's order."""
        dataset = self.crop_dataset(split)
        return self._loader(dataset, range(len(dataset)), self.seed, self.eval_batch_size, train=False)

    def _loader(
        self, dataset: CropDataset, rows: Sequence[int], seed: int, batch_size: int, train: bool
    ) -> DataLoader:
        trainer = self.trainer
        rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        sampler = EpochSampler(rows, seed=seed, shuffle=train, rank=rank, world_size=world)
        sampler.set_epoch(self.next_epoch)
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.workers,
            worker_init_fn=crops.start_worker,
            # Those of an evaluation would keep the memory that training had when they were forked.
            persistent_workers=train and self.workers > 0,
            drop_last=train and len(sampler) >= batch_size,
            pin_memory=self._device().type == "cuda",
        )

    def _keep_resident(self) -> bool:
        """Whether the cached crops lie on the trainer's device, after loading them; "auto": where they take less
        than 60 % of a CUDA device's free memory."""
        if self.trainer is None or self.resident is False:
            return False
        persons, device, wanted = self.persons("train", self.augmentation), self._device(), self.resident
        assert isinstance(persons.images, CachedCrops)
        if wanted == "auto":
            size = 3 * len(persons) * math.prod(persons.images.settings.crop_size)
            wanted = device.type == "cuda" and size < 0.6 * torch.cuda.mem_get_info(device)[0]
        if self._resident is None and wanted:
            self._resident = crops.load_resident(persons.images, len(persons), device, self.workers)
        return self._resident is not None

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> PoseBatch:
        """Cuts what the loader has left to the device; who iterates a training loader by hand calls it too."""
        uncut = crops.SAMPLING in batch
        return crops.cut_crops(batch, self.input_size, self._resident) if uncut else batch

    def teardown(self, stage: str) -> None:
        """Gives the device's memory back after training."""
        self._resident = None

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

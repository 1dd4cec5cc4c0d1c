"""The data of a run as a LightningDataModule."""

from typing import Literal, Protocol

import lightning as L
from torch.utils.data import DataLoader
from torchmetrics import Metric

from pnfs.body import Skeleton
from pnfs.data.augmentation import Augmentation
from pnfs.data.dataset import CropDataset, EpochSampler, start_worker
from pnfs.data.persons import Persons

Split = Literal["train", "val", "test"]


class Source(Protocol):
    """A dataset, as configurations name it."""

    skeleton: Skeleton

    def persons(self, split: str) -> Persons:
        """The labelled persons of a split."""
        ...

    def metric(self, split: str) -> Metric:
        """The benchmark's own score; the first entry of its result is the one that counts."""
        ...


class PoseDataModule(L.LightningDataModule):
    """Loaders of one dataset's splits.

    Args:
        source: The dataset.
        input_size: (height, width) of the crops.
        batch_size: Persons in a training batch, in each process.
        eval_batch_size: Persons in a validation batch.
        workers: Loader processes; 0 loads in the training process.
        augmentation: Of the training crops.
        seed: Of order and augmentation.
        drop_last: Leave out a last, smaller training batch.
    """

    def __init__(
        self,
        *,
        source: Source,
        input_size: tuple[int, int],
        batch_size: int,
        eval_batch_size: int | None = None,
        workers: int = 2,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__()
        self.source = source
        self.input_size = input_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.workers = workers
        self.augmentation = augmentation
        self.seed = seed
        self.drop_last = drop_last

    def dataset(self, split: str, augmentation: Augmentation | None = None) -> CropDataset:
        """The crops of a split."""
        return CropDataset(
            self.source.persons(split),
            input_size=self.input_size,
            augmentation=augmentation,
            seed=self.seed,
        )

    def train_dataloader(self) -> DataLoader:
        dataset = self.dataset("train", self.augmentation)
        return self._loader(
            dataset,
            self.batch_size,
            shuffle=True,
            drop_last=self.drop_last and len(dataset) >= self.batch_size,
        )

    def val_dataloader(self) -> DataLoader:
        return self.eval_dataloader("val")

    def eval_dataloader(self, split: str) -> DataLoader:
        """Plain crops of any split, in the dataset's order."""
        return self._loader(self.dataset(split), self.eval_batch_size)

    def _loader(
        self, dataset: CropDataset, batch_size: int, shuffle: bool = False, drop_last: bool = False
    ) -> DataLoader:
        rank, world_size = self._rank()
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=EpochSampler(
                len(dataset), seed=self.seed, shuffle=shuffle, rank=rank, world_size=world_size
            ),
            num_workers=self.workers,
            worker_init_fn=start_worker,
            persistent_workers=self.workers > 0,
            drop_last=drop_last,
            pin_memory=self._on_gpu(),
        )

    def _rank(self) -> tuple[int, int]:
        return (
            (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        )

    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

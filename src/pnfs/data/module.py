"""The data of a run as a LightningDataModule."""

from typing import Literal, Protocol

import lightning as L
import numpy as np
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
        self.weight_rows: list[int] | None = None
        self.architecture_rows: list[int] | None = None

    def dataset(self, split: str, augmentation: Augmentation | None = None) -> CropDataset:
        """The crops of a split."""
        return CropDataset(
            self.source.persons(split),
            input_size=self.input_size,
            augmentation=augmentation,
            seed=self.seed,
        )

    def split_train(self, share: float, seed: int) -> tuple[list[int], list[int]]:
        """Divides the training persons between weights and architecture parameters.

        Args:
            share: Of the persons that go to the architecture parameters, above 0 and below 1.
            seed: Of the shuffling.

        Returns:
            Rows for the weights, rows for the architecture parameters.

        Raises:
            ValueError: One of the two would be empty.
        """
        total = len(self.source.persons("train"))
        for_architecture = round(share * total)
        if not 0 < for_architecture < total:
            raise ValueError(f"a share of {share} of {total} persons leaves one side without any")
        shuffled = np.random.default_rng([seed, total]).permutation(total)
        self.architecture_rows = sorted(shuffled[:for_architecture].tolist())
        self.weight_rows = sorted(shuffled[for_architecture:].tolist())
        return self.weight_rows, self.architecture_rows

    def train_dataloader(self) -> DataLoader:
        return self._train_loader(self.weight_rows, self.seed)

    def architecture_dataloader(self) -> DataLoader:
        """Augmented crops of the persons that `split_train` set aside."""
        if self.architecture_rows is None:
            raise RuntimeError("split_train has not divided the training persons yet")
        # Another order than the weights' loader has.
        return self._train_loader(self.architecture_rows, self.seed + 1)

    def _train_loader(self, rows: list[int] | None, order_seed: int) -> DataLoader:
        dataset = self.dataset("train", self.augmentation)
        size = len(dataset) if rows is None else len(rows)
        return self._loader(
            dataset,
            self.batch_size,
            rows=rows,
            order_seed=order_seed,
            shuffle=True,
            drop_last=self.drop_last and -(-size // self._rank()[1]) >= self.batch_size,
        )

    def val_dataloader(self) -> DataLoader:
        return self.eval_dataloader("val")

    def eval_dataloader(self, split: str) -> DataLoader:
        """Plain crops of any split, in the dataset's order."""
        return self._loader(self.dataset(split), self.eval_batch_size)

    def _loader(
        self,
        dataset: CropDataset,
        batch_size: int,
        rows: list[int] | None = None,
        order_seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
    ) -> DataLoader:
        rank, world_size = self._rank()
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=EpochSampler(
                len(dataset) if rows is None else rows,
                seed=order_seed,
                shuffle=shuffle,
                rank=rank,
                world_size=world_size,
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

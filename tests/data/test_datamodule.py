"""The data module: what its loaders hand over, in which order, to which process."""

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torchmetrics import Metric

from pnfs.body import LSP
from pnfs.data.augmentation import Augmentation
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import Persons
from pnfs.evaluation.pck import PCK

K = len(LSP)
SIZES = {"train": 10, "val": 7, "test": 3}


@dataclass(frozen=True)
class NoiseImages:
    def read(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (50, 40, 3), dtype=np.uint8)

    def describe(self, index: int) -> str:
        return f"noise{index}"


class NoiseSource:
    skeleton = LSP

    def persons(self, split: str) -> Persons:
        count = SIZES[split]
        random = np.random.default_rng(count)
        return Persons(
            name=f"noise/{split}",
            skeleton=LSP,
            images=NoiseImages(),
            ids=np.array([f"{split}{i}" for i in range(count)]),
            image_index=np.arange(count),
            joints=random.uniform(0, 40, (count, K, 2)).astype(np.float32),
            visibility=random.integers(0, 3, (count, K)).astype(np.int8),
            center=np.full((count, 2), 20, np.float32),
            box_size=np.full((count, 2), 30, np.float32),
            reference_length=np.ones(count, np.float32),
        )

    def metric(self, split: str) -> Metric:
        return PCK(joints=LSP.joints, groups={}, thresholds=(0.2,))


def data(**arguments: Any) -> PoseDataModule:
    arguments = {"batch_size": 4, "workers": 0, "seed": 3, **arguments}
    return PoseDataModule(
        source=NoiseSource(), input_size=(64, 48), augmentation=Augmentation(), **arguments
    )


def order(loader) -> list[int]:
    return [int(index) for batch in loader for index in batch["sample_index"]]


def test_a_batch_has_the_agreed_shapes_and_types() -> None:
    batch = next(iter(data().train_dataloader()))
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "image": ((4, 64, 48, 3), torch.uint8),
        "joints_crop": ((4, K, 2), torch.float32),
        "labelled": ((4, K), torch.bool),
        "to_image": ((4, 2, 3), torch.float32),
        "joints_image": ((4, K, 2), torch.float32),
        "reference_length": ((4,), torch.float32),
        "sample_index": ((4,), torch.int64),
    }


def assert_samples(loader, dataset: CropDataset, epoch: int) -> None:
    for batch in loader:
        for row, index in enumerate(batch["sample_index"].tolist()):
            sample = dataset[SampleKey(epoch, index)]
            for name, value in sample.items():
                np.testing.assert_array_equal(batch[name][row].numpy(), value, err_msg=name)


def test_training_batches_are_shuffled_and_augmented() -> None:
    module = data(drop_last=False)
    loader = module.train_dataloader()
    found = order(loader)
    assert sorted(found) == list(range(10))
    assert found != sorted(found)
    assert_samples(loader, module.dataset("train", Augmentation()), epoch=0)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_evaluation_takes_every_person_once_plain_and_in_order(split: str) -> None:
    module = data(eval_batch_size=3)
    loader = module.eval_dataloader(split)
    assert order(loader) == list(range(SIZES[split]))
    assert {len(batch["image"]) for batch in list(loader)[:-1]} <= {3}
    plain = CropDataset(NoiseSource().persons(split), input_size=(64, 48))
    assert_samples(loader, plain, epoch=0)
    if split == "val":
        assert order(module.val_dataloader()) == order(loader)


@pytest.mark.parametrize(("size", "drop_last", "sizes"), [
    (4, True, [4, 4]), (4, False, [4, 4, 2]), (10, True, [10]), (16, True, [10]), (16, False, [10]),
])  # fmt: skip
def test_only_a_last_smaller_batch_is_left_out(size: int, drop_last: bool, sizes: list) -> None:
    loader = data(batch_size=size, drop_last=drop_last).train_dataloader()
    assert [len(batch["image"]) for batch in loader] == sizes


def on_process(module: PoseDataModule, rank: int, world: int) -> PoseDataModule:
    cpu = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world, strategy=cpu)  # type: ignore
    return module


def test_processes_share_an_epoch() -> None:
    shares = [
        order(on_process(data(batch_size=1), rank, 3).train_dataloader()) for rank in range(3)
    ]
    assert [len(share) for share in shares] == [4, 4, 4]
    # Two of the ten persons fill up the last round.
    assert sorted(Counter(itertools.chain(*shares)).values()) == [1] * 8 + [2] * 2
    assert order(on_process(data(), 1, 2).val_dataloader()) == [1, 3, 5, 0]


def test_a_process_with_less_than_a_batch_still_trains() -> None:
    # Each of four processes has three of the ten persons.
    loader = on_process(data(batch_size=4), 0, 4).train_dataloader()
    assert len(list(loader)) == 1


class Recorder(L.LightningModule):
    """Keeps the batches of every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: list[list[dict[str, Tensor]]] = []

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.epochs[-1].append(batch)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quiet_trainer(epochs: int, *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_moves_the_epoch_on(workers: int) -> None:
    module, recorder = data(workers=workers), Recorder()
    quiet_trainer(2).fit(recorder, datamodule=module)
    first, second = recorder.epochs
    assert order(first) != order(second)
    dataset = module.dataset("train", Augmentation())
    assert_samples(first, dataset, epoch=0)
    assert_samples(second, dataset, epoch=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_training_sees_the_crops_of_its_own_epochs(workers: int, tmp_path: Path) -> None:
    keep = ModelCheckpoint(dirpath=tmp_path, filename="last")
    quiet_trainer(1, keep).fit(Recorder(), datamodule=data(workers=workers))
    module, recorder = data(workers=workers), Recorder()
    quiet_trainer(3).fit(
        recorder, datamodule=module, ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    second, third = recorder.epochs
    dataset = module.dataset("train", Augmentation())
    assert_samples(second, dataset, epoch=1)
    assert_samples(third, dataset, epoch=2)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_training_persons_can_be_divided_between_two_loaders(share: float) -> None:
    module = data(batch_size=2, drop_last=False)
    weights, architecture = module.split_train(share, seed=4)
    assert len(architecture) == 10 * share
    assert sorted(weights + architecture) == list(range(10))
    assert sorted(order(module.train_dataloader())) == weights
    assert sorted(order(module.architecture_dataloader())) == architecture
    assert data().split_train(share, seed=4) == (weights, architecture)
    assert any(data().split_train(share, seed=s) != (weights, architecture) for s in range(4))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.99, 1.0])
def test_a_division_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"a share of {share} of 10 persons leaves one side"):
        data().split_train(share, seed=0)

"""The data module: what its loaders hand over, in which order, to which process."""

import itertools
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pnfs.body import LSP
from pnfs.data.augmentation import Augmentation
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.data.module import PoseDataModule
from toy_persons import toy_persons

SIZES = {"train": 10, "val": 7, "test": 3}
SOURCE: Any = SimpleNamespace(skeleton=LSP, persons=lambda split: toy_persons(SIZES[split]))


def data(**arguments: Any) -> PoseDataModule:
    options = {"batch_size": 4, "workers": 0, "seed": 3, "augmentation": Augmentation()}
    return PoseDataModule(source=SOURCE, input_size=(64, 48), **options | arguments)


def order(loader) -> list[int]:
    return [int(index) for batch in loader for index in batch["sample_index"]]


def assert_samples(loader, dataset: CropDataset) -> None:
    for batch in loader:
        for row, index in enumerate(batch["sample_index"].tolist()):
            for name, value in dataset[SampleKey(0, index)].items():
                np.testing.assert_array_equal(batch[name][row].numpy(), value, err_msg=name)


def test_training_batches_are_shuffled_and_augmented() -> None:
    module = data(batch_size=5)
    loader = module.train_dataloader()
    found = order(loader)
    assert sorted(found) == list(range(10)) != found
    assert_samples(loader, module.dataset("train", Augmentation()))
    shapes = {name: (tuple(v.shape), v.dtype) for name, v in next(iter(loader)).items()}
    assert shapes == {
        "image": ((5, 64, 48, 3), torch.uint8),
        "joints_crop": ((5, 14, 2), torch.float32),
        "labelled": ((5, 14), torch.bool),
        "to_image": ((5, 2, 3), torch.float32),
        "joints_image": ((5, 14, 2), torch.float32),
        "reference_length": ((5,), torch.float32),
        "sample_index": ((5,), torch.int64),
    }


@pytest.mark.parametrize("split", SIZES)
def test_evaluation_takes_every_person_once_plain_and_in_order(split: str) -> None:
    loader = data(eval_batch_size=3).eval_dataloader(split)
    assert order(loader) == list(range(SIZES[split]))
    assert {len(batch["image"]) for batch in list(loader)[:-1]} <= {3}
    assert_samples(loader, CropDataset(SOURCE.persons(split), input_size=(64, 48)))


@pytest.mark.parametrize(("size", "sizes"), [(4, [4, 4]), (10, [10]), (16, [10])])
def test_only_a_last_smaller_batch_is_left_out(size: int, sizes: list) -> None:
    loader = data(batch_size=size).train_dataloader()
    assert [len(batch["image"]) for batch in loader] == sizes


def on_process(module: PoseDataModule, rank: int, world: int) -> PoseDataModule:
    cpu = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world, strategy=cpu)  # type: ignore
    return module


def test_processes_share_an_epoch() -> None:
    modules = [on_process(data(batch_size=1), rank, 3) for rank in range(3)]
    shares = [order(module.train_dataloader()) for module in modules]
    assert [len(share) for share in shares] == [4, 4, 4]
    # Two of the ten persons fill up the last round.
    assert sorted(Counter(itertools.chain(*shares)).values()) == [1] * 8 + [2] * 2
    assert order(on_process(data(), 1, 2).val_dataloader()) == [1, 3, 5, 0]
    # A process with less than a batch, three of ten persons, still trains.
    assert len(list(on_process(data(batch_size=4), 0, 4).train_dataloader())) == 1


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_training_persons_can_be_divided_between_two_loaders(share: float) -> None:
    module = data(batch_size=1)
    weights, architecture = module.split_train(share, seed=4)
    assert len(architecture) == 10 * share
    assert sorted(weights + architecture) == list(range(10))
    assert sorted(order(module.train_dataloader())) == weights
    assert sorted(order(module.architecture_dataloader())) == architecture
    assert data().split_train(share, seed=4) == (weights, architecture)
    assert any(data().split_train(share, seed=s) != (weights, architecture) for s in range(4))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.99, 1.0])
def test_a_division_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"share of {share} "):
        data().split_train(share, seed=0)

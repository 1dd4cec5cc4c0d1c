"""Crops cut on the device: the loader's draws and labels, and its pixels but for interpolation."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate
from torchmetrics import Metric

from pnfs.body import LSP
from pnfs.data.augmentation import Augmentation
from pnfs.data.cache import CachedCrops, CacheSettings, with_crops
from pnfs.data.cache_writer import ensure_cache
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.data.device import UncutCrops, cut_crops, load_resident
from pnfs.data.images import DataError
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import Persons
from pnfs.evaluation.pck import PCK

K, COUNT, SIZE = len(LSP), 11, (64, 48)


@dataclass(frozen=True)
class SmoothImages:
    def read(self, index: int) -> np.ndarray:
        noise = np.random.default_rng(index).normal(size=(110, 120, 3)).astype(np.float32)
        blurred = cv2.GaussianBlur(noise, (0, 0), 6)
        return (blurred * (60 / blurred.std()) + 128).clip(0, 255).astype(np.uint8)

    def describe(self, index: int) -> str:
        return f"smooth{index}"


def toy_persons(count: int = COUNT) -> Persons:
    random = np.random.default_rng(4)
    return Persons(
        name="toy train",
        skeleton=LSP,
        images=SmoothImages(),
        ids=np.array([f"person{i}" for i in range(count)]),
        image_index=np.arange(count),
        joints=random.uniform(10, 100, (count, K, 2)).astype(np.float32),
        visibility=random.integers(0, 3, (count, K)).astype(np.int8),
        center=random.uniform(50, 60, (count, 2)).astype(np.float32),
        box_size=random.uniform(40, 60, (count, 2)).astype(np.float32),
        reference_length=random.uniform(10, 20, count).astype(np.float32),
    )


@pytest.fixture(scope="module")
def persons(tmp_path_factory: pytest.TempPathFactory) -> Persons:
    settings = CacheSettings(input_size=SIZE, format="raw").with_room_for(Augmentation())
    folder = ensure_cache(
        tmp_path_factory.mktemp("cache"), toy_persons(), settings, report=lambda _: None
    )
    return with_crops(toy_persons(), folder)


def samples(persons: Persons, augmentation: Augmentation | None, **options: Any) -> CropDataset:
    return CropDataset(persons, input_size=SIZE, augmentation=augmentation, seed=5, **options)


def uncut(persons: Persons, augmentation: Augmentation | None, **options: Any) -> UncutCrops:
    return UncutCrops(persons, input_size=SIZE, augmentation=augmentation, seed=5, **options)


def batch_of(ours: CropDataset, epoch: int, rows: Sequence[int]) -> dict[str, Tensor]:
    return default_collate([ours[SampleKey(epoch, row)] for row in rows])


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("augmentation", [Augmentation(), None])
def test_the_device_makes_the_loaders_batch(
    persons: Persons, augmentation: Augmentation | None, unbiased: bool, resident: bool
) -> None:
    pixels = load_resident(persons, torch.device("cpu")) if resident else None
    ours = uncut(persons, augmentation, unbiased=unbiased, resident=resident)
    loader = samples(persons, augmentation, unbiased=unbiased)
    mirrored = 0
    for epoch in range(3):
        expected = batch_of(loader, epoch, range(COUNT))
        handed_over = batch_of(ours, epoch, range(COUNT))
        assert ("cached_crop" in handed_over) != resident
        batch = cast(Any, cut_crops(handed_over, SIZE, pixels))
        assert batch.keys() == expected.keys()
        for name, value in expected.items():
            if name != "image":
                assert torch.equal(batch[name], value), name
        difference = (batch["image"].int() - expected["image"].int()).abs()
        # OpenCV interpolates on a grid of 1/32 pixel.
        assert difference.float().mean((1, 2, 3)).max() < 0.8
        assert difference.max() <= 12
        assert batch["image"].dtype == torch.uint8
        assert batch["image"].is_contiguous()
        mirrored += int((torch.linalg.det(expected["to_image"][..., :2]) < 0).sum())
    assert augmentation is None or 5 < mirrored < 3 * COUNT - 5


@pytest.mark.parametrize("name", ["colour", "blur", "occlusion"])
def test_the_device_refuses_what_only_the_loader_does(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"augmentation\.{name}=0\.3.*data\.augment=loader"):
        module(tmp_path, augmentation=Augmentation(**cast(Any, {name: 0.3})))
    module(tmp_path, augmentation=Augmentation(**cast(Any, {name: 0.3})), augment="loader")


class ToySource:
    skeleton = LSP

    def persons(self, split: str) -> Persons:
        persons = toy_persons(COUNT if split == "train" else 5)
        return replace(persons, name=f"toy {split}")

    def metric(self, split: str) -> Metric:
        return PCK(joints=LSP.joints, groups={}, thresholds=(0.2,))


def module(cache: Path, **arguments: Any) -> PoseDataModule:
    arguments = {"batch_size": 4, "workers": 0, "augment": "device", "seed": 5} | arguments
    augmentation = arguments.pop("augmentation", Augmentation())
    return PoseDataModule(
        source=ToySource(),
        input_size=SIZE,
        augmentation=augmentation,
        cache=cache,
        **arguments,
    )


def test_only_training_crops_are_cut_on_the_device(tmp_path: Path) -> None:
    data, plain = module(tmp_path), module(tmp_path, augment="loader")
    for batch, expected in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
        assert batch.keys() == expected.keys()
        for name in expected:
            assert torch.equal(batch[name], expected[name]), name
    assert "sampling" in next(iter(data.train_dataloader()))


class Recorder(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: dict[int, list[dict[str, Tensor]]] = {}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.batches.setdefault(self.current_epoch, []).append(batch)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        assert batch["image"].shape[1:] == (*SIZE, 3)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(data: PoseDataModule, folder: Path, epochs: int, resume: bool = False) -> Recorder:
    recorder = Recorder()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    checkpoints = sorted((folder / "checkpoints").glob("*.ckpt")) if resume else [None]
    trainer.fit(recorder, datamodule=data, ckpt_path=checkpoints[-1], weights_only=True)
    return recorder


@pytest.mark.parametrize(("resident", "workers"), [(True, 0), (False, 1)])
def test_lightning_trains_on_what_the_device_cuts_and_resumes(
    tmp_path: Path, resident: bool, workers: int
) -> None:
    def some(**options: Any) -> PoseDataModule:
        return module(tmp_path / "cache", workers=workers, **options)

    whole = fitted(some(resident=resident), tmp_path / "whole", 3)
    fitted(some(resident=resident), tmp_path / "run", 2)
    resumed = fitted(some(resident=resident), tmp_path / "run", 3, resume=True)
    loaders = fitted(some(augment="loader"), tmp_path / "loader", 3)
    assert sorted(whole.batches) == [0, 1, 2]
    assert sorted(resumed.batches) == [2]
    for expected, batch in zip(whole.batches[2], resumed.batches[2], strict=True):
        for name, value in expected.items():
            assert torch.equal(batch[name], value), name
    for epoch, batches in loaders.batches.items():
        for expected, batch in zip(batches, whole.batches[epoch], strict=True):
            assert batch.keys() == expected.keys()
            assert torch.equal(batch["joints_crop"], expected["joints_crop"])
            assert torch.equal(batch["sample_index"], expected["sample_index"])


def test_a_damaged_crop_does_not_become_resident(tmp_path: Path) -> None:
    persons = module(tmp_path).persons("train", Augmentation())
    path = cast(CachedCrops, persons.images).path
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE crops SET crc32 = crc32 + 1 WHERE person = 10")
    with pytest.raises(DataError, match="person10") as error:
        load_resident(persons, torch.device("cpu"), threads=2)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cache": None}, "set data.cache"),
        ({"augment": "gpu"}, "data.augment is loader or device"),
        ({"resident": "maybe"}, "data.resident is true, false or auto"),
        ({"augment": "loader", "resident": True}, "set data.augment=device too"),
    ],
)
def test_choices_that_cannot_be_are_refused(tmp_path: Path, wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        module(**({"cache": tmp_path} | wrong))


def test_crops_for_which_there_is_no_memory_are_refused(
    persons: Persons, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(DataError, match=r"data\.resident=false"):
        load_resident(persons, torch.device("cpu"))

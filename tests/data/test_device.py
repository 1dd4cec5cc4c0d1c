"""Crops cut on the device: the loader's draws and labels, and its pixels but for interpolation."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from pnfs.body import LSP
from pnfs.data.augmentation import Augmentation
from pnfs.data.cache import CachedCrops, CacheSettings, ensure_cache, with_crops
from pnfs.data.crops import CropDataset, SampleKey, UncutCrops, cut_crops, load_resident
from pnfs.data.images import DataError
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import Persons
from toy_persons import toy_persons

COUNT, SIZE, CPU = 11, (64, 48), torch.device("cpu")


@pytest.fixture(scope="module")
def persons(tmp_path_factory: pytest.TempPathFactory) -> Persons:
    settings = CacheSettings(input_size=SIZE, format="raw").with_room_for(Augmentation())
    toys, root = toy_persons(COUNT), tmp_path_factory.mktemp("cache")
    return with_crops(toys, ensure_cache(root, toys, settings))


def batch_of(ours: CropDataset, epoch: int, rows: Sequence[int]) -> dict[str, Tensor]:
    return default_collate([ours[SampleKey(epoch, row)] for row in rows])


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize(
    ("augmentation", "unbiased"), [(Augmentation(), False), (Augmentation(), True), (None, False)]
)
def test_the_device_makes_the_loaders_batch(
    persons: Persons, augmentation: Augmentation | None, unbiased: bool, resident: bool
) -> None:
    pixels = load_resident(persons, CPU) if resident else None
    options: Any = {"input_size": SIZE, "augmentation": augmentation, "unbiased": unbiased}
    ours, loader = (
        UncutCrops(persons, resident=resident, **options),
        CropDataset(persons, **options),
    )
    mirrored = 0
    for epoch in range(3):
        expected = batch_of(loader, epoch, range(COUNT))
        handed_over = batch_of(ours, epoch, range(COUNT))
        assert ("cached_crop" in handed_over) != resident
        batch = cast(Any, cut_crops(handed_over, SIZE, pixels))
        mirrored += int((torch.linalg.det(expected["to_image"][..., :2]) < 0).sum())
        images = batch.pop("image"), expected.pop("image")
        assert images[0].dtype == torch.uint8
        difference = (images[0].int() - images[1].int()).abs()
        # OpenCV interpolates on a grid of 1/32 pixel.
        assert difference.float().mean((1, 2, 3)).max() < 0.8
        assert difference.max() <= 12
        torch.testing.assert_close(batch, expected, rtol=0, atol=0)
    assert augmentation is None or 5 < mirrored < 3 * COUNT - 5


def module(cache: Path | None, **arguments: Any) -> PoseDataModule:
    sizes = {"train": COUNT, "val": 5}
    source = SimpleNamespace(skeleton=LSP, persons=lambda split: toy_persons(sizes[split], name=f"toy {split}"))
    options = {"batch_size": 4, "workers": 0, "augment": "device", "augmentation": Augmentation()}
    return PoseDataModule(source=source, input_size=SIZE, cache=cache, **options | arguments)  # type: ignore


def test_only_training_crops_are_cut_on_the_device(tmp_path: Path) -> None:
    data, plain = module(tmp_path), module(tmp_path, augment="loader")
    for batch, expected in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
        torch.testing.assert_close(batch, expected, rtol=0, atol=0)
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
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, use_distributed_sampler=False, **quiet
    )  # fmt: skip
    checkpoints = sorted((folder / "checkpoints").glob("*.ckpt")) if resume else [None]
    trainer.fit(recorder, datamodule=data, ckpt_path=checkpoints[-1], weights_only=True)
    return recorder


@pytest.mark.parametrize(("resident", "workers"), [(True, 0), (False, 1)])
def test_lightning_trains_on_what_the_device_cuts_and_resumes(
    tmp_path: Path, resident: bool, workers: int
) -> None:
    def fit(name: str, epochs: int, resume: bool = False, **options: Any) -> Recorder:
        data = module(tmp_path / "cache", workers=workers, **options)
        return fitted(data, tmp_path / name, epochs, resume)

    whole = fit("whole", 3, resident=resident)
    fit("run", 2, resident=resident)
    resumed = fit("run", 3, resume=True, resident=resident)
    loaders = fit("loader", 3, augment="loader")
    assert (sorted(whole.batches), sorted(resumed.batches)) == ([0, 1, 2], [2])
    torch.testing.assert_close(whole.batches[2], resumed.batches[2], rtol=0, atol=0)
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
        load_resident(persons, CPU, threads=2)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["cache", "colour", "blur", "occlusion"])
def test_choices_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    wrong = {"augmentation": Augmentation(**{name: 0.3})} if name != "cache" else {"cache": None}
    with pytest.raises(ValueError, match=f"{name}.*set data"):
        module(**({"cache": tmp_path} | wrong))

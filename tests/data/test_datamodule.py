"""The data module: what its loaders hand over, in which order, to which process; crops cut on the device."""

import itertools
import multiprocessing
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import default_collate

from pnfs.body import LSP
from pnfs.data.augmentation import Augmentation
from pnfs.data.cache import CachedCrops, CacheSettings, ensure_cache, with_crops
from pnfs.data.crops import CropDataset, SampleKey, cut_crops, load_resident
from pnfs.data.module import PoseDataModule
from written_datasets import toy_persons

SIZES, SIZE, CPU = {"train": 10, "val": 7, "test": 3}, (64, 48), torch.device("cpu")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SOURCE: Any = SimpleNamespace(skeleton=LSP, persons=lambda split: toy_persons(SIZES[split], name=f"toy {split}"))


def data(**arguments: Any) -> PoseDataModule:
    options = {"batch_size": 4, "workers": 0, "seed": 3, "augmentation": Augmentation()}
    return PoseDataModule(dataset=SOURCE, input_size=SIZE, **options | arguments)


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
    assert_samples(loader, module.crop_dataset("train", Augmentation()))
    kinds = {name: (tuple(v.shape), v.dtype) for name, v in next(iter(loader)).items()}
    assert kinds == {
        "image": ((5, 64, 48, 3), torch.uint8), "joints_crop": ((5, 14, 2), torch.float32),
        "labelled": ((5, 14), torch.bool), "to_image": ((5, 2, 3), torch.float32),
        "joints_image": ((5, 14, 2), torch.float32), "reference_length": ((5,), torch.float32),
        "sample_index": ((5,), torch.int64),
    }  # fmt: skip


@pytest.mark.parametrize("split", SIZES)
def test_evaluation_takes_every_person_once_plain_and_in_order(split: str) -> None:
    loader = data(eval_batch_size=3).eval_dataloader(split)
    assert order(loader) == list(range(SIZES[split]))
    assert_samples(loader, CropDataset(SOURCE.persons(split), input_size=SIZE))


@pytest.mark.parametrize(("size", "sizes"), [(4, [4, 4]), (10, [10]), (16, [10])])
def test_only_a_last_smaller_batch_is_left_out(size: int, sizes: list) -> None:
    assert [len(batch["image"]) for batch in data(batch_size=size).train_dataloader()] == sizes


def on_process(module: PoseDataModule, rank: int, world: int) -> PoseDataModule:
    strategy = SimpleNamespace(root_device=CPU)
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world, strategy=strategy)  # type: ignore
    return module


def test_processes_share_an_epoch() -> None:
    shares = [order(on_process(data(batch_size=1), rank, 3).train_dataloader()) for rank in range(3)]
    # Two of the ten persons fill up the last round.
    assert sorted(Counter(itertools.chain(*shares)).values()) == [1] * 8 + [2] * 2
    # A process with less than a batch, three of ten persons, still trains.
    assert len(list(on_process(data(batch_size=4), 0, 4).train_dataloader())) == 1


def test_training_persons_can_be_divided_between_two_loaders() -> None:
    module = data(batch_size=1)
    weights, architecture = module.split_train(0.2, seed=4)
    assert len(architecture) == 2
    assert sorted(weights + architecture) == list(range(10))
    assert sorted(order(module.train_dataloader())) == weights
    assert sorted(order(module.architecture_dataloader())) == architecture
    assert data().split_train(0.2, seed=4) == (weights, architecture)
    assert any(data().split_train(0.2, seed=s) != (weights, architecture) for s in range(4))
    for share in (0.0, 0.01, 0.99, 1.0):
        with pytest.raises(ValueError, match=f"share of {share} "):
            data().split_train(share, seed=0)


def test_processes_of_an_evaluation_end_with_it() -> None:
    loader = data(workers=1).eval_dataloader("val")
    assert len(list(loader)) > 0
    assert not multiprocessing.active_children()


# --- crops cut on the device


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("uncut", ["resident", "sent"])
@pytest.mark.parametrize(
    ("augmentation", "unbiased"), [(Augmentation(), False), (Augmentation(), True), (None, False)]
)
def test_the_device_makes_the_loaders_batch(
    augmentation: Augmentation | None, unbiased: bool, uncut: Any, device: str, tmp_path: Path
) -> None:
    toys = toy_persons(11)
    settings = CacheSettings(SIZE, format="raw").with_room_for(Augmentation())
    persons = with_crops(toys, ensure_cache(tmp_path, toys, settings))
    pixels = (
        load_resident(cast(CachedCrops, persons.images), 11, torch.device(device)) if uncut == "resident" else None
    )
    options: Any = {"input_size": SIZE, "augmentation": augmentation, "unbiased": unbiased}
    ours, loaders, mirrored = CropDataset(persons, uncut=uncut, **options), CropDataset(persons, **options), 0
    for epoch in range(3):
        expected, handed_over = (
            default_collate([each[SampleKey(epoch, row)] for row in range(11)]) for each in (loaders, ours)
        )
        assert ("cached_crop" in handed_over) == (uncut == "sent")
        batch = cast(Any, cut_crops(move_data_to_device(handed_over, device), SIZE, pixels))
        batch = move_data_to_device(batch, "cpu")
        mirrored += int((torch.linalg.det(expected["to_image"][..., :2]) < 0).sum())
        difference = (batch.pop("image").int() - expected.pop("image").int()).abs()
        # OpenCV interpolates on a grid of 1/32 pixel.
        assert difference.float().mean((1, 2, 3)).max() < 0.8
        assert difference.max() <= 12
        torch.testing.assert_close(batch, expected, rtol=0, atol=0)
    assert augmentation is None or 5 < mirrored < 28


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


@pytest.mark.parametrize(("resident", "workers"), [(True, 0), (False, 1)])
def test_lightning_trains_on_what_the_device_cuts_and_resumes(
    tmp_path: Path, resident: bool, workers: int
) -> None:
    def fit(name: str, epochs: int, augment: str = "device") -> dict[int, list]:
        recorder, folder = Recorder(), tmp_path / name
        quiet = ("enable_progress_bar", "enable_model_summary", "logger", "use_distributed_sampler")
        options = {"accelerator": "cpu", "default_root_dir": folder, **dict.fromkeys(quiet, False)}
        module = data(cache=tmp_path / "cache", workers=workers, augment=augment, resident=resident)
        last = next(iter(sorted((folder / "checkpoints").glob("*.ckpt"))), None)
        trainer = L.Trainer(max_epochs=epochs, **options)
        trainer.fit(recorder, datamodule=module, ckpt_path=last, weights_only=True)
        return recorder.batches

    whole, loaders = fit("whole", 3), fit("loader", 3, augment="loader")
    fit("run", 2)
    resumed = fit("run", 3)
    assert (sorted(whole), sorted(resumed)) == ([0, 1, 2], [2])
    torch.testing.assert_close(whole[2], resumed[2], rtol=0, atol=0)
    for epoch, batches in loaders.items():
        for expected, batch in zip(batches, whole[epoch], strict=True):
            assert batch.keys() == expected.keys()
            assert torch.equal(batch["joints_crop"], expected["joints_crop"])


@pytest.mark.parametrize("name", ["cache", "colour", "blur", "occlusion"])
def test_choices_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    wrong = {"augmentation": Augmentation(**{name: 0.3})} if name != "cache" else {"cache": None}
    with pytest.raises(ValueError, match=f"{name}.*set data"):
        data(**({"cache": tmp_path, "augment": "device"} | wrong))

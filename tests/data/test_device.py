"""Augmentation on the device: the loader's crops and labels for the same draws, and its distribution."""

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from pnfs.body import LSP
from pnfs.data.augmentation import AffineDraw, Augmentation
from pnfs.data.cache import CacheSettings, with_crops
from pnfs.data.cache_writer import ensure_cache
from pnfs.data.dataset import CropDataset, SampleKey
from pnfs.data.device import BatchCropper, blot_out, blur, change_colours, uniform_draws
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import DataError, Persons
from pnfs.data.resident import DeviceLoader, load_resident
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


def cropper(persons: Persons, augmentation: Augmentation | None, seed: int = 5) -> BatchCropper:
    return BatchCropper(persons, input_size=SIZE, augmentation=augmentation, seed=seed)


def batch_of(ours: BatchCropper, epoch: int, rows: np.ndarray) -> dict[str, Tensor]:
    pixels = load_resident(ours.crops, torch.device("cpu"))
    return cast(Any, ours.batch(pixels[torch.from_numpy(rows)], ours.columns(epoch, rows)))


@dataclass(frozen=True)
class Told(Augmentation):
    """Draws what it is told."""

    told: AffineDraw = field(default_factory=AffineDraw)

    def draw(self, random: np.random.Generator) -> AffineDraw:
        return self.told


@pytest.mark.parametrize("augmentation", [Augmentation(), None])
def test_the_same_draws_give_the_loaders_sample(
    persons: Persons, augmentation: Augmentation | None
) -> None:
    ours, rows, flips = cropper(persons, augmentation), np.arange(COUNT), Counter()
    for epoch in range(4):
        draws, batch = ours.draws(epoch, rows), batch_of(ours, epoch, rows)
        for row in rows.tolist():
            flips[draws[row].flip] += 1
            loader = CropDataset(persons, input_size=SIZE, augmentation=Told(told=draws[row]))
            expected = cast(Any, loader[SampleKey(epoch, row)])
            assert expected.keys() == batch.keys()
            for name in ("labelled", "target", "reference_length", "sample_index"):
                np.testing.assert_array_equal(batch[name][row], expected[name], err_msg=name)
            for name in ("joints", "to_image"):
                # Double precision apart from the last rounding.
                np.testing.assert_allclose(batch[name][row], expected[name], rtol=2e-7, atol=1e-5)
            difference = batch["image"][row].numpy().astype(int) - expected["image"]
            # OpenCV interpolates on a grid of 1/32 pixel.
            assert np.abs(difference).mean() < 0.8
            assert np.abs(difference).max() <= 12
    assert augmentation is None or min(flips[True], flips[False]) > 5
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous()


def test_a_place_a_fraction_of_a_pixel_off_would_show(persons: Persons) -> None:
    ours, rows = cropper(persons, Augmentation()), np.arange(COUNT)
    exact = batch_of(ours, 0, rows)["image"].float()
    quarter = 0.25 * ours.crops.settings.resolution * ours.crops.to_image[:, 0, 0]
    ours.crops.to_image[:, 0, 2] += quarter
    try:
        moved = batch_of(ours, 0, rows)["image"].float()
    finally:
        ours.crops.to_image[:, 0, 2] -= quarter
    assert (exact - moved).abs().mean() > 1.2


def test_draws_are_a_function_of_seed_epoch_and_person(persons: Persons) -> None:
    rows = np.arange(COUNT)

    def rotations(seed: int, epoch: int, some: np.ndarray = rows) -> np.ndarray:
        return cropper(persons, Augmentation(), seed).draws(epoch, some).rotation_degrees

    base = rotations(1, 2)
    np.testing.assert_array_equal(rotations(1, 2, rows[::-1]), base[::-1])
    np.testing.assert_array_equal(rotations(1, 2, rows[3:5]), base[3:5])
    for other in (rotations(2, 1), rotations(1, 3), rotations(3, 2)):
        assert not np.isclose(base, other).any()


def test_the_draws_are_even_and_independent() -> None:
    draws = uniform_draws(7, 3, np.arange(20_000), 6)
    assert 0 <= draws.min() < draws.max() < 1
    for column in draws.T:
        shares = np.histogram(column, bins=10, range=(0, 1))[0] / len(draws)
        # Five standard deviations.
        np.testing.assert_allclose(shares, 0.1, atol=5 * np.sqrt(0.09 / len(draws)))
    others = [uniform_draws(7, 4, np.arange(20_000), 1), uniform_draws(8, 3, np.arange(20_000), 1)]
    neighbours = np.roll(draws[:, :1], 1, axis=0)
    together = np.corrcoef(np.concatenate([draws, neighbours, *others], 1).T)
    assert np.abs(together - np.eye(len(together))).max() < 5 / np.sqrt(len(draws))


def test_the_geometry_has_the_loaders_distribution(persons: Persons) -> None:
    augmentation = Augmentation(rotation=30, scale=(0.5, 2.0), flip=0.25)
    ours = cropper(persons, augmentation)
    drawn = [ours.draws(epoch, np.arange(COUNT)) for epoch in range(300)]
    generator = np.random.default_rng(0)
    theirs = [augmentation.draw(generator) for _ in range(300 * COUNT)]
    for name in ("rotation_degrees", "scale", "flip"):
        mine = np.concatenate([getattr(d, name) for d in drawn]).astype(float)
        other = np.array([getattr(d, name) for d in theirs], float)
        levels = np.linspace(0, 1, 21)
        spread = np.ptp(other)
        # Quantiles of a yes-or-no agree where its share does.
        if name == "flip":
            assert mine.mean() == pytest.approx(0.25, abs=0.04)
        else:
            gap = np.abs(np.quantile(mine, levels) - np.quantile(other, levels)).max()
            assert gap < 0.04 * spread


DRAWN = 300
STRONG = Augmentation(colour=0.6, blur=0.5, occlusion=0.5, rotation=0, scale=(1, 1), flip=0)


def changed(augmentation: Augmentation, image: np.ndarray, count: int) -> np.ndarray:
    """The loader's changes of one picture, by albumentations."""
    generator = np.random.default_rng(3)
    return np.stack([augmentation.change_pixels(image, generator) for _ in range(count)])


@pytest.mark.parametrize("name", ["colour", "blur", "occlusion"])
def test_pixels_change_as_the_loader_changes_them(persons: Persons, name: str) -> None:
    """Moments of how far pixels move, over many draws of one crop."""
    augmentation = replace(STRONG, **{k: 0.0 for k in ("colour", "blur", "occlusion") if k != name})
    ours = cropper(persons, augmentation)
    plain = batch_of(cropper(persons, None), 0, np.array([2]))["image"][0].numpy()
    pixels = load_resident(ours.crops, torch.device("cpu"))[[2]]
    mine = np.concatenate(
        [ours.batch(pixels, ours.columns(epoch, np.array([2])))["image"] for epoch in range(DRAWN)]
    )
    theirs = changed(augmentation, plain, DRAWN)
    moments = []
    for images in (mine, theirs):
        moved = images.astype(float) - plain
        untouched = (np.abs(moved) <= 1).all((1, 2, 3)).mean()
        size = np.abs(moved).mean((1, 2, 3))
        some = size[size > 0.5]
        moments.append(
            [untouched, *np.quantile(some, [0.25, 0.5, 0.75]) / some.mean(), some.mean()]
        )
    np.testing.assert_allclose(moments[0][0], moments[1][0], atol=0.09)
    np.testing.assert_allclose(moments[0][1:4], moments[1][1:4], atol=0.13)
    assert moments[0][4] == pytest.approx(moments[1][4], rel=0.12)


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_colours_are_those_of_albumentations(order: tuple[int, ...]) -> None:
    import albumentations as A

    image = SmoothImages().read(1)[:40, :40]
    factors = [0.8, 1.25, 1.2, 0.04]
    transform = A.ColorJitter(p=1)
    expected = transform.apply(image, *factors, order=list(order)).astype(int)
    found = change_colours(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(),
        torch.tensor([factors]),
        torch.tensor([order]),
    )
    difference = np.abs(found[0].permute(1, 2, 0).numpy() - expected)
    # OpenCV's hue of 8 bits counts in steps of two degrees.
    assert difference.mean() < 2.5


def test_blur_is_that_of_albumentations() -> None:
    import albumentations as A

    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / 1.3) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    expected = A.GaussianBlur(p=1).apply(image, kernel=kernel).astype(float)
    batch = torch.from_numpy(np.stack([image, image])).permute(0, 3, 1, 2).float()
    untouched = np.array([0, 0, 1, 0, 0], np.float32)
    found = blur(batch, torch.from_numpy(np.stack([kernel, untouched])))
    np.testing.assert_allclose(found[0].permute(1, 2, 0), expected, atol=1.01)
    np.testing.assert_array_equal(found[1], batch[1])


def test_rectangles_are_blotted_out() -> None:
    image = torch.full((2, 3, 10, 12), 50.0)
    holes = torch.tensor([[[1, 2, 4, 6], [0, 0, 0, 0]], [[8, 9, 10, 12], [0, 0, 2, 1]]])
    colours = torch.tensor([[[1, 2, 3], [9, 9, 9]], [[4, 5, 6], [7, 8, 9]]], dtype=torch.uint8)
    expected = image.clone()
    expected[0, :, 1:4, 2:6] = torch.tensor([1.0, 2, 3])[:, None, None]
    expected[1, :, 8:10, 9:12] = torch.tensor([4.0, 5, 6])[:, None, None]
    expected[1, :, 0:2, 0:1] = torch.tensor([7.0, 8, 9])[:, None, None]
    assert torch.equal(blot_out(image, holes, colours), expected)


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


@pytest.mark.parametrize(("resident", "workers"), [(True, 0), (False, 0), (False, 2)])
def test_device_loaders_hand_over_the_croppers_batches(
    tmp_path: Path, resident: bool, workers: int
) -> None:
    data = module(tmp_path, resident=resident, workers=workers, drop_last=False)
    loader = data.train_dataloader()
    assert isinstance(loader, DeviceLoader)
    ours = cropper(data.persons("train", Augmentation()), Augmentation())
    seen = []
    for epoch in (0, 3):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert [len(batch["image"]) for batch in batches] == [4, 4, 3]
        assert len(loader) == 3
        for batch in batches:
            expected = batch_of(ours, epoch, batch["sample_index"].numpy())
            assert batch.keys() == expected.keys()
            for name, value in cast(Any, batch).items():
                assert torch.equal(value, expected[name]), name
        seen.append(torch.cat([batch["sample_index"] for batch in batches]).tolist())
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(COUNT))
    assert seen[0] != seen[1]


def test_validation_on_the_device_is_plain_and_in_order(tmp_path: Path) -> None:
    data = module(tmp_path, cache_format="raw", resident=True)
    loader_data = module(tmp_path, cache_format="raw", augment="loader")
    for batch, expected in zip(data.val_dataloader(), loader_data.val_dataloader(), strict=True):
        for name in expected:
            atol = 1 if name == "image" else 1e-5
            np.testing.assert_allclose(
                batch[name].numpy().astype(float), expected[name].numpy(), atol=atol, err_msg=name
            )


def test_processes_share_an_epoch_on_the_device(tmp_path: Path) -> None:
    shares = []
    for rank in range(3):
        data = module(tmp_path, batch_size=2, drop_last=False)
        cpu = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3, strategy=cpu)  # type: ignore
        shares.append([int(i) for b in data.train_dataloader() for i in b["sample_index"]])
    assert [len(share) for share in shares] == [4, 4, 4]
    assert set(itertools.chain(*shares)) == set(range(COUNT))


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


def test_lightning_trains_from_a_device_loader_and_resumes_it(tmp_path: Path) -> None:
    whole = fitted(module(tmp_path / "cache", resident=True), tmp_path / "whole", 3)
    fitted(module(tmp_path / "cache", resident=True), tmp_path / "run", 2)
    resumed = fitted(module(tmp_path / "cache", resident=True), tmp_path / "run", 3, resume=True)
    assert sorted(whole.batches) == [0, 1, 2]
    assert sorted(resumed.batches) == [2]
    for expected, batch in zip(whole.batches[2], resumed.batches[2], strict=True):
        for name, value in expected.items():
            assert torch.equal(batch[name], value), name
    first, last = whole.batches[0][0], whole.batches[2][0]
    assert not torch.equal(first["sample_index"], last["sample_index"])


def test_a_damaged_crop_does_not_become_resident(tmp_path: Path) -> None:
    data = module(tmp_path)
    crops = data.persons("train", Augmentation()).images
    path = crops.folder / "crops.bin"  # type: ignore[attr-defined]
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="person10 is damaged"):
        load_resident(crops, torch.device("cpu"), threads=2)  # type: ignore[arg-type]


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


def test_the_device_needs_cached_persons() -> None:
    with pytest.raises(ValueError, match="from a crop cache only"):
        cropper(toy_persons(), None)


def test_crops_for_which_there_is_no_memory_are_refused(
    persons: Persons, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(DataError, match="set resident=false"):
        load_resident(cropper(persons, None).crops, torch.device("cpu"))

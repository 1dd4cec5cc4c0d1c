"""Ten training steps of the authors' public code, recorded in float64, against ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from test_recorded import load_case
from torch import Tensor
from torch.utils.data import DataLoader

from pnfs.codec import Codec
from pnfs.data.module import PoseDataModule
from pnfs.evaluation.pck import PCK
from pnfs.importing.weights import OPERATION_NAMES
from pnfs.models import PoseFabricNetwork
from pnfs.models.fabric import NEIGHBOURS
from pnfs.search import FirstOrder, SearchStrategy, Synchronous
from pnfs.search.strategy import freeze_architecture
from pnfs.training.loss import HeatmapLoss
from pnfs.training.module import PoseModule
from pnfs.training.schedules import StepSchedule


def batches(arrays: Mapping[str, np.ndarray], first: int, count: int) -> list[dict[str, Tensor]]:
    """What a loader would hand over, one entry a step."""
    return [
        {
            "image": torch.from_numpy(arrays["images"][step]).permute(0, 2, 3, 1).contiguous(),
            "joints_crop": torch.from_numpy(arrays["joints"][step]).double(),
            "labelled": torch.from_numpy(arrays["visible"][step]),
            "sample_index": torch.arange(len(arrays["images"][step])),
        }
        for step in range(first, first + count)
    ]


class RecordedData(PoseDataModule):
    """The recorded batches behind the interface of the real data module."""

    def __init__(self, weights: list[dict[str, Tensor]], search: list[dict[str, Tensor]]) -> None:
        L.LightningDataModule.__init__(self)
        self.weights, self.search = weights, search

    def split_train(self, share: float, seed: int) -> tuple[list[int], list[int]]:
        return [], []

    def train_dataloader(self) -> DataLoader:  # type: ignore[override]
        return DataLoader(self.weights, batch_size=None)  # type: ignore[arg-type]

    def architecture_dataloader(self) -> DataLoader:  # type: ignore[override]
        loader = DataLoader(self.search, batch_size=None)  # type: ignore[arg-type]
        loader.sampler.set_epoch = lambda epoch: None  # type: ignore[attr-defined]
        return loader


class AsLoaded(SearchStrategy):
    """Alpha and beta stay what the recorded weights hold."""

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        freeze_architecture(module)


class Losses(L.Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.found.append(outputs["loss"].item())


def strategy_of(settings: dict[str, Any], seen: list[float]) -> SearchStrategy:
    if settings["strategy"] == "synchronous":
        return Synchronous()
    if settings["strategy"] == "random":
        return AsLoaded()

    class Watched(FirstOrder):
        def architecture_gradients(self, *arguments: Any) -> tuple[list[Tensor], Tensor]:
            gradients, loss = super().architecture_gradients(*arguments)
            seen.append(loss.item())
            return gradients, loss

    return Watched(
        lr=settings["architecture_lr"],
        weight_decay=settings["architecture_weight_decay"],
        betas=tuple(settings["architecture_adam_betas"]),
    )


def module_of(settings: dict[str, Any], network: PoseFabricNetwork) -> PoseModule:
    joints = network.parts.skeleton.joints
    return PoseModule(
        network=network.double().train(),
        metric=PCK(joints=joints, groups={}, thresholds=(0.5,)),
        optimizer=lambda groups: torch.optim.Adam(groups, lr=settings["lr"], betas=tuple(settings["adam_betas"])),
        schedule=StepSchedule(milestones=()),
        loss=HeatmapLoss("joints", 0.5),
        codec=Codec(sigma=settings["sigma"], quantised=False, radius=None),
    )


@pytest.mark.fixtures("train/*_steps.json")
def test_training_steps_are_those_of_the_public_code(
    fixture_file: Path, fixtures_dir: Path, tmp_path: Path
) -> None:
    settings = json.loads(fixture_file.read_text())
    with np.load(fixture_file.with_suffix(".npz")) as file:
        arrays = dict(file)
    steps = settings["steps"]
    case = fixtures_dir / "arch" / settings["case"]
    config, network, _ = load_case(case)
    bilevel = settings["strategy"] == "first_order"
    search = batches(arrays, steps, steps) if bilevel else []
    architecture_losses: list[float] = []
    losses = Losses()
    off = (
        "logger",
        "enable_checkpointing",
        "enable_progress_bar",
        "enable_model_summary",
        "use_distributed_sampler",
    )
    callbacks = [strategy_of(settings, architecture_losses), losses]
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, limit_val_batches=0, default_root_dir=tmp_path,
        callbacks=callbacks, **dict.fromkeys(off, False),  # type: ignore[arg-type]
    )  # fmt: skip
    module = module_of(settings, network)
    trainer.fit(module, datamodule=RecordedData(batches(arrays, 0, steps), search))

    np.testing.assert_allclose(losses.found, arrays["losses"], rtol=1e-8, atol=0)
    if bilevel:
        expected = arrays["architecture_losses"]
        np.testing.assert_allclose(architecture_losses, expected, rtol=1e-8, atol=0)
    ours = network.fabrics.theta.operations
    theirs = config["subnetwork_config"]["cell_config"]["operators"]
    operations = [ours.index(OPERATION_NAMES[name]) for name in theirs]
    # Columns of their beta: the same scale, the finer, the coarser.
    neighbours = [NEIGHBOURS.index(name) for name in ("same", "finer", "coarser")]
    fabrics = network.fabrics
    for part in fabrics.part_names:
        alpha = fabrics.alpha[part].detach().numpy()[..., operations]
        beta = fabrics.beta[part].detach().numpy()[..., neighbours]
        np.testing.assert_allclose(alpha, arrays[f"alphas.{part}"], rtol=0, atol=1e-8)
        np.testing.assert_allclose(beta, arrays[f"betas.{part}"], rtol=0, atol=1e-8)

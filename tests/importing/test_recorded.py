"""Imported checkpoints against recorded outputs and training steps of the authors' public implementation."""

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pnfs.codec import Codec
from pnfs.commands.building import build_network
from pnfs.commands.configuration import plain
from pnfs.data.module import PoseDataModule
from pnfs.evaluation.pck import PCK
from pnfs.importing.networks import Imported, import_state
from pnfs.models.cost import measure_cost
from pnfs.models.fabric import NEIGHBOURS
from pnfs.search import FirstOrder, SearchStrategy, Synchronous
from pnfs.search.strategy import freeze_architecture
from pnfs.training.loss import HeatmapLoss
from pnfs.training.module import PoseModule
from pnfs.training.schedules import StepSchedule
from tiny_runs import composed


def imported(config_file: Path) -> tuple[dict, Imported, dict[str, np.ndarray]]:
    """A case's configuration, what the import makes of its weights, and its recorded arrays."""
    config, state = json.loads(config_file.read_text()), {}
    with np.load(str(config_file).replace("_config.json", "_io.npz")) as arrays:
        io = dict(arrays)
    for name in config.get("weight_files", ()):
        with np.load(config_file.parent / name) as arrays:
            state.update({key: torch.from_numpy(arrays[key]) for key in arrays})
    # Recorded from images in the order of the colours that the network reads.
    names = {"channel_order": "rgb"}
    names["operators"] = config.get("subnetwork_config", config)["cell_config"]["operators"]
    if "backbone_config" in config:
        names["backbone_operators"] = config["backbone_config"]["operators"]
    settings = plain(composed("import", "checkpoint=x", "input_size=[64,64]")) | names
    found = import_state(settings, state or variant_state(config, io), build_network)
    found.network.eval()
    return config, found, io


def variant_state(config: dict, io: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The state dict of a recorded variant: what is stored, and the rest by the rule of its README."""
    state = {}
    for name, shape in config["state"].items():
        if f"state.{name}" in io:
            state[name] = torch.from_numpy(io[f"state.{name}"])
            assert list(state[name].shape) == shape
            continue
        r = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) == 4:
            r = r * math.sqrt(2 / math.prod(shape[1:]))
        elif not name.endswith(("alphas", "betas")):
            r = 1 + 0.1 * r if name.endswith("weight") else 0.05 * r
        state[name] = torch.from_numpy(np.asarray(r).astype(np.float32))
    return state


@pytest.mark.fixtures("arch/*_config.json")
def test_a_recorded_architecture_agrees(fixture_file: Path) -> None:
    config, found, io = imported(fixture_file)
    network, images = found.network, torch.from_numpy(io["input"])
    with torch.no_grad():
        pyramid, part_maps = network.backbone(images), network(images)
    for level, features in enumerate(pyramid):
        np.testing.assert_allclose(features, io[f"backbone_feature_{level}"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(network.merged(part_maps), io["output"], atol=1e-4, rtol=0)
    sizes = [len(joints) for joints in config["parts"].values()]
    for maps, (part, joints) in zip(part_maps.split(sizes, 1), config["parts"].items(), strict=True):
        output = io[f"part_output.{part}"]
        # Recorded for its own joints only, or for all of them.
        expected = output if output.shape[1] == len(joints) else output[:, joints]
        np.testing.assert_allclose(maps, expected, atol=1e-4, rtol=0, err_msg=part)
    assert measure_cost(network, tuple(config["input_hw"])).live_parameters == config["live_parameters"]


@pytest.mark.fixtures("variants/*_config.json")
def test_a_recorded_variant_agrees_and_its_entries_tell_its_configuration(fixture_file: Path) -> None:
    config, found, io = imported(fixture_file)
    network, images = found.network, torch.from_numpy(io["input"])
    with torch.no_grad():
        pyramid, maps = network.backbone(images), network.merged(network(images))
    for level, features in enumerate(pyramid):
        np.testing.assert_allclose(features.abs().mean(), io[f"feature_abs_mean_{level}"], rtol=1e-4)
    np.testing.assert_allclose(maps, io["output"], atol=1e-4, rtol=0)
    skeleton, fabrics = network.parts.skeleton, found.model["fabrics"]
    cell = config.get("subnetwork_config", config)["cell_config"]
    told = {part: skeleton.indices(list(joints)) for part, joints in found.model["parts"].items()}
    assert list(told.items()) == list(config["parts"].items())
    expected = {
        "layers": cell["depth"], "last_layers": cell["depth"] - cell["cut_layers_num"], "channels": cell["factor"],
        "nodes": cell["hidden_states_num"], "alpha_per_cell": not cell["one-shot-search"],
    }  # fmt: skip
    assert {key: fabrics[key] for key in expected} == expected
    assert found.model["vector_dim"] == (cell["vector_dim"] if cell["vector_in_pixel"] else 1)


@pytest.mark.fixtures("arch/counts*.json")
@pytest.mark.parametrize("step", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_costs_at_the_papers_scale_agree(fixture_file: Path, step: int) -> None:
    keys = {"vector_dim": "vector_dim", "fabrics.channels": "factor", "fabrics.nodes": "hidden_states_num"}
    for row in json.loads(fixture_file.read_text())[::step]:
        choices = {"dataset": row["dataset"], "backbone": row["backbone"], "parts": f"p{row['parts_num']}"}
        choices |= {f"model.{ours}": row[theirs] for ours, theirs in keys.items()}
        settings = composed("train", "variant=posenfs", *(f"{key}={value}" for key, value in choices.items()))
        settings.model.backbone.weights = "none"
        with torch.device("meta"):
            network = build_network(plain(settings)["model"])
        cost = measure_cost(network, tuple(row["input_hw"]))
        backbone = cost.parts["backbone"]
        assert cost.live_parameters == row["live_parameters"], row
        assert backbone.live_parameters == row["of_which_backbone"], row
        assert cost.architecture_parameters == row["of_which_architecture_parameters"], row
        assert cost.macs == pytest.approx(row["conv_macs"], rel=0.01), row
        assert backbone.macs == pytest.approx(row["of_which_backbone_conv_macs"], rel=0.01), row


# --- ten training steps, recorded in float64


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
    if settings["strategy"] != "first_order":
        return {"synchronous": Synchronous, "random": AsLoaded}[settings["strategy"]]()

    class Watched(FirstOrder):
        def architecture_gradients(self, *arguments: Any) -> tuple[list[Tensor], Tensor]:
            gradients, loss = super().architecture_gradients(*arguments)
            seen.append(loss.item())
            return gradients, loss

    lr, decay = settings["architecture_lr"], settings["architecture_weight_decay"]
    return Watched(lr=lr, weight_decay=decay, betas=tuple(settings["architecture_adam_betas"]))


@pytest.mark.fixtures("train/*_steps.json")
def test_training_steps_are_those_of_the_public_code(
    fixture_file: Path, fixtures_dir: Path, tmp_path: Path
) -> None:
    settings = json.loads(fixture_file.read_text())
    with np.load(fixture_file.with_suffix(".npz")) as file:
        arrays = dict(file)
    steps, bilevel = settings["steps"], settings["strategy"] == "first_order"
    network: Any = imported(fixtures_dir / "arch" / settings["case"])[1].network
    architecture_losses, losses = [], Losses()
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, limit_val_batches=0, default_root_dir=tmp_path,
        callbacks=[strategy_of(settings, architecture_losses), losses], use_distributed_sampler=False,
        **dict.fromkeys(off, False),  # type: ignore[arg-type]
    )  # fmt: skip
    module = PoseModule(
        network=network.double().train(),
        metric=PCK(joints=network.parts.skeleton.joints, groups={}, thresholds=(0.5,)),
        optimizer=lambda groups: torch.optim.Adam(groups, lr=settings["lr"], betas=tuple(settings["adam_betas"])),
        schedule=StepSchedule(milestones=()),
        loss=HeatmapLoss("joints", 0.5),
        codec=Codec(sigma=settings["sigma"], quantised=False, radius=None),
    )
    search = batches(arrays, steps, steps) if bilevel else []
    trainer.fit(module, datamodule=RecordedData(batches(arrays, 0, steps), search))

    np.testing.assert_allclose(losses.found, arrays["losses"], rtol=1e-8, atol=0)
    if bilevel:
        np.testing.assert_allclose(architecture_losses, arrays["architecture_losses"], rtol=1e-8, atol=0)
    # Columns of their beta: the same scale, the finer, the coarser; alpha's stand as they list them.
    neighbours = [NEIGHBOURS.index(name) for name in ("same", "finer", "coarser")]
    fabrics = network.fabrics
    for part in fabrics.part_names:
        alpha, beta = (getattr(fabrics, name)[part].detach().numpy() for name in ("alpha", "beta"))
        np.testing.assert_allclose(alpha, arrays[f"alphas.{part}"], rtol=0, atol=1e-8)
        np.testing.assert_allclose(beta[..., neighbours], arrays[f"betas.{part}"], rtol=0, atol=1e-8)

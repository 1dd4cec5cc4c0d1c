"""PoseModule: what is trained, what the loss and the score are made of."""

import math
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pnfs.body import LSP
from pnfs.data.crops import PoseBatch
from pnfs.evaluation.pck import PCK
from pnfs.models.backbones import Backbone
from pnfs.training.loss import HeatmapLoss
from pnfs.training.module import ArchitectureGroup, PoseModule, move_batch
from pnfs.training.schedules import OneCycleSchedule
from tiny import fabric_network

PARTS = {
    "upper": [j for j in LSP.joints if j not in ("left_knee", "right_knee", "left_ankle")],
    "legs": ["left_hip", "left_knee", "right_knee", "left_ankle"],
}
K = len(LSP)
SIZE = 64


class TinyBackbone(Backbone):
    channels = (3, 4, 5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, channels, 1) for channels in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [
            conv(F.avg_pool2d(images, scale))
            for conv, scale in zip(self.convs, (4, 8, 16, 32), strict=True)
        ]


def module(**arguments) -> PoseModule:
    torch.manual_seed(0)
    network = fabric_network(
        backbone=TinyBackbone(), skeleton="lsp", parts=PARTS, channels=1, vector_dim=2
    )
    pck = PCK(joints=LSP.joints, groups=LSP.groups, thresholds=(0.2, 0.5))
    metric = arguments.pop("metric", pck)
    optimizer = arguments.pop("optimizer", partial(torch.optim.Adam, lr=1e-3))
    return PoseModule(network=network, metric=metric, optimizer=optimizer, **arguments)


def rows(count: int) -> list[dict[str, np.ndarray]]:
    """Samples as a dataset gives them; the crop is half the image's size and moved by (10, 20)."""
    random = np.random.default_rng(0)
    samples = []
    for index in range(count):
        joints = random.uniform(4, SIZE - 4, (K, 2)).astype(np.float32)
        samples.append(
            {
                "image": random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
                "joints_crop": joints,
                "labelled": random.random(K) < 0.8,
                "to_image": np.array([[2, 0, 10], [0, 2, 20]], np.float32),
                "joints_image": joints * 2 + np.array([10, 20], np.float32),
                "reference_length": np.float32(40),
                "sample_index": np.int64(index),
            }
        )
    return samples


def batch(count: int = 3) -> PoseBatch:
    return next(iter(DataLoader(rows(count), batch_size=count)))


def trainer(**arguments) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def fit(pose: PoseModule, **arguments) -> L.Trainer:
    runner = trainer(max_epochs=1, limit_val_batches=0, **arguments)
    runner.fit(pose, DataLoader(rows(4), batch_size=2))
    return runner


def optimised(pose: PoseModule) -> list[list[int]]:
    groups = pose.trainer.optimizers[0].param_groups
    return [[id(parameter) for parameter in group["params"]] for group in groups]


def values(pose: PoseModule) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in pose.network.architecture_parameters().items()}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_a_strategy_alpha_and_beta_stay_as_they_are() -> None:
    pose = module()
    before, weight = values(pose), pose.network.head.weight.detach().clone()
    fit(pose)
    assert optimised(pose) == [[id(p) for p in pose.network.weight_parameters()]]
    assert all(torch.equal(before[name], value) for name, value in values(pose).items())
    assert not torch.equal(weight, pose.network.head.weight)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_architecture_group_puts_them_into_the_weights_optimiser() -> None:
    pose = module(schedule=OneCycleSchedule(peak=0.01))
    pose.architecture_group = ArchitectureGroup(lr_factor=3.0, weight_decay=0.125)
    before = values(pose)
    fit(pose)
    architecture = [id(p) for p in pose.network.architecture_parameters().values()]
    assert optimised(pose) == [[id(p) for p in pose.network.weight_parameters()], architecture]
    weights, group = pose.trainer.optimizers[0].param_groups
    assert (weights["weight_decay"], group["weight_decay"]) == (0, 0.125)
    assert group["lr"] == pytest.approx(3 * weights["lr"])
    assert group["max_lr"] == pytest.approx(0.03)
    assert all(not torch.equal(before[name], value) for name, value in values(pose).items())


def plain_loss(pose: PoseModule, samples: PoseBatch, sigma: float) -> float:
    """Half, or the whole, of the mean square on every labelled part map, by loops."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((samples["image"] / 255 - mean) / std).permute(0, 3, 1, 2)
    maps = pose.network(images)
    total, count, row = 0.0, 0, 0
    ys, xs = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    for joints in PARTS.values():
        for joint in joints:
            k = LSP.joints.index(joint)
            for sample in range(len(maps)):
                if samples["labelled"][sample, k]:
                    x, y = (int(v / 4 + 0.5) for v in samples["joints_crop"][sample, k].tolist())
                    target = torch.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2))
                    target[((xs - x).abs() > 3 * sigma) | ((ys - y).abs() > 3 * sigma)] = 0
                    total += (maps[sample, row] - target).square().mean().item()
                count += 1
            row += 1
    return total / count


@pytest.mark.parametrize(("sigma", "factor"), [(2.0, 1.0), (1.0, 0.5)])
def test_the_training_loss_is_made_of_crops_and_joints(sigma: float, factor: float) -> None:
    pose = module(sigma=sigma, loss=HeatmapLoss(factor=factor)).eval()
    samples = batch()
    with torch.no_grad():
        loss = pose.training_loss(samples).item()
        assert loss == pytest.approx(factor * plain_loss(pose, samples, sigma), rel=1e-4)


def test_a_metric_whose_lower_values_are_better_is_refused() -> None:
    class MeanError(PCK):
        higher_is_better = False

    error = MeanError(joints=LSP.joints, groups=LSP.groups, thresholds=(0.2,))
    with pytest.raises(ValueError, match="MeanError"):
        module(metric=error)


def test_a_batch_without_labels_trains_nothing() -> None:
    pose = module()
    samples = batch()
    samples["labelled"].zero_()
    loss = pose.training_loss(samples)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in pose.parameters())


def test_locations_are_the_brightest_pixels_in_the_image() -> None:
    pose = module(decode_method="argmax")
    samples = batch(2)
    maps = torch.zeros(2, K, 16, 16)
    places = torch.randint(0, 16, (2, K, 2))
    for sample in range(2):
        for k in range(K):
            x, y = places[sample, k].tolist()
            maps[sample, k, y, x] = 0.25 + k / 100
    locations, scores = pose.locate(maps, samples)
    expected = places * 4 * 2 + torch.tensor([10, 20])
    torch.testing.assert_close(locations, expected.float())
    torch.testing.assert_close(scores, (0.25 + torch.arange(K) / 100).expand(2, K))


@pytest.mark.parametrize("shift", [0, 1])
def test_the_flip_test_averages_with_the_mirrored_image(shift) -> None:
    pose = module(flip_test=True, flip_shift=shift).eval()
    samples = batch(2)
    mirrored_samples = dict(samples)
    mirrored_samples["image"] = samples["image"].flip(2)
    with torch.no_grad():
        part_maps, maps = pose.score_maps(samples)
        pose.flip_test = False
        plain_parts, plain = pose.score_maps(samples)
        _, mirrored = pose.score_maps(mirrored_samples)  # type: ignore[arg-type]
    expected = torch.zeros_like(maps)
    for k, joint in enumerate(LSP.joints):
        swapped = {"left": "right", "right": "left"}
        side, _, stem = joint.partition("_")
        partner = f"{swapped[side]}_{stem}" if side in swapped else joint
        for x in range(16):
            source = 15 - (max(x - 1, 0) if shift else x)
            other = mirrored[:, LSP.joints.index(partner), :, source]
            expected[:, k, :, x] = (plain[:, k, :, x] + other) / 2
    torch.testing.assert_close(maps, expected)
    assert torch.equal(part_maps, plain_parts)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_validation_logs_the_benchmarks_score() -> None:
    pose = module()
    samples = rows(5)
    runner = trainer()
    (logged,) = runner.validate(pose, DataLoader(samples, batch_size=2), verbose=False)
    everything = next(iter(DataLoader(samples, batch_size=5)))
    pose.eval()
    with torch.no_grad():
        locations, _ = pose.locate(pose.score_maps(everything)[1], everything)
    right = labelled = 0
    for sample in range(5):
        for k in range(K):
            if everything["labelled"][sample, k]:
                error = math.dist(locations[sample, k], everything["joints_image"][sample, k])
                labelled += 1
                right += error <= 0.2 * 40
    assert logged["val/PCK@0.2"] == pytest.approx(100 * right / labelled, rel=1e-5)
    assert logged["val/score"] == logged["val/PCK@0.2"]
    assert logged["val/PCK@0.5"] > logged["val/PCK@0.2"]
    assert logged["val/loss"] > 0
    assert len(pose.metric["PCK"].sample_index) == 0


def test_a_perfect_network_scores_a_hundred() -> None:
    pose = module()
    samples = batch(2)

    def perfect(images: Tensor) -> Tensor:
        maps = torch.zeros(len(images), len(pose.network.map_joints), 16, 16)
        for row, k in enumerate(pose.network.map_joints.tolist()):
            for sample in range(len(images)):
                x, y = (samples["joints_crop"][sample, k] / 4).round().long().tolist()
                maps[sample, row, y, x] = 1
        return maps

    pose.network.forward = perfect
    _, maps = pose.score_maps(samples)
    locations, _ = pose.locate(maps, samples)
    # Half a heatmap pixel and the quarter offset, in each direction, are lost.
    limit = 2 * 4 * math.hypot(0.75, 0.75)
    assert (locations - samples["joints_image"]).norm(dim=-1).max() < limit


def test_a_checkpoints_network_can_be_loaded_alone() -> None:
    trained, fresh = module(), module()
    for parameter in trained.network.parameters():
        parameter.data.normal_()
    state = trained.state_dict() | {"metric.other": torch.zeros(1)}
    fresh.load_weights(state)
    for name, value in fresh.network.state_dict().items():
        assert torch.equal(value, trained.network.state_dict()[name]), name
    with pytest.raises(RuntimeError, match="Missing key"):
        fresh.load_weights({name: value for name, value in state.items() if "head" not in name})


def test_a_batch_moves_as_a_whole() -> None:
    moved = move_batch(batch(1), torch.device("meta"))
    assert set(moved) == set(batch(1))
    assert {value.device.type for value in moved.values()} == {"meta"}  # type: ignore[attr-defined]

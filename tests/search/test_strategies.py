"""Each strategy moves alpha and beta by what it should, and by nothing else."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from search_toy import ToyData, toy_fit

from pnfs.body import MPII
from pnfs.data.module import PoseDataModule
from pnfs.data.synthetic import Synthetic
from pnfs.errors import PnfsError
from pnfs.models.architecture import describe_architecture, to_json
from pnfs.models.backbones import MobileNetV2
from pnfs.search import (
    FirstOrder,
    Frozen,
    GumbelSoftmax,
    Random,
    SearchStrategy,
    SecondOrder,
    Synchronous,
)
from pnfs.training.checkpoints import CheckpointError
from pnfs.training.module import PoseModule
from tiny import fabric_network

PARTS = {"head": MPII.joints[:3], "upper": MPII.joints[3:9], "lower": MPII.joints[9:]}


def people_module(lr: float = 1e-3) -> tuple[PoseModule, PoseDataModule]:
    source = Synthetic(train=24, val=8, image_size=(64, 64))
    torch.manual_seed(0)
    module = PoseModule(
        network=fabric_network(PARTS, backbone=MobileNetV2("none"), channels=2),
        metric=source.metric("val"),
        optimizer=lambda groups: torch.optim.Adam(groups, lr=lr),
    )
    return module, PoseDataModule(source=source, input_size=(32, 32), batch_size=6, workers=0)


def architecture(module: PoseModule) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in module.network.architecture_parameters().items()}


def train_on_people(
    strategy: SearchStrategy, lr: float = 1e-3, **options: object
) -> tuple[PoseModule, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The trained module, and alpha, beta and the weights as they were before."""
    module, data = people_module(lr)
    weights = {n: p.detach().clone() for n, p in module.network.named_parameters()}
    before = architecture(module)
    toy_fit(strategy, module, data=data, **options)
    return module, before, weights


def moved_weights(module: PoseModule, before: dict[str, torch.Tensor]) -> list[str]:
    return [
        name
        for name, value in module.network.named_parameters()
        if ".alpha." not in name and ".beta." not in name and not torch.equal(value, before[name])
    ]


def test_random_is_drawn_by_seed_and_stays() -> None:
    module, _, weights = train_on_people(Random(seed=5))
    generator = torch.Generator().manual_seed(5)
    for value in architecture(module).values():
        assert torch.equal(value, torch.randn(value.shape, generator=generator))
    assert moved_weights(module, weights)
    other, _, _ = train_on_people(Random(seed=6), epochs=1)
    assert not torch.equal(architecture(other)["head/beta"], architecture(module)["head/beta"])


def test_synchronous_moves_them_by_the_weights_optimiser() -> None:
    # Adam's first step is the learning rate times the gradient's sign, whatever its size.
    module, before, weights = train_on_people(Synchronous(), max_steps=1)
    step = architecture(module)["head/alpha"] - before["head/alpha"]
    torch.testing.assert_close(step.abs(), torch.full_like(step, 1e-3), rtol=0.02, atol=0)
    assert moved_weights(module, weights)
    half, before, _ = train_on_people(Synchronous(lr_factor=0.5), max_steps=1)
    step = architecture(half)["head/alpha"] - before["head/alpha"]
    torch.testing.assert_close(step.abs(), torch.full_like(step, 5e-4), rtol=0.02, atol=0)


def test_frozen_keeps_what_it_was_given(tmp_path: Path) -> None:
    donor, _ = people_module()
    for parameter in donor.network.architecture_parameters().values():
        torch.nn.init.normal_(parameter)
    file = tmp_path / "found.json"
    file.write_text(to_json(describe_architecture(donor.network)))
    module, _, weights = train_on_people(Frozen(architecture=file))
    for name, value in architecture(donor).items():
        assert torch.equal(architecture(module)[name], value)
    assert moved_weights(module, weights)
    uniform, _, _ = train_on_people(Frozen())
    assert not any(value.any() for value in architecture(uniform).values())


def test_frozen_says_what_does_not_fit(tmp_path: Path) -> None:
    other = fabric_network(backbone=MobileNetV2("none"), channels=2)
    file = tmp_path / "other.json"
    file.write_text(to_json(describe_architecture(other)))
    with pytest.raises(PnfsError, match="head"):
        train_on_people(Frozen(architecture=file))
    with pytest.raises(CheckpointError, match="absent"):
        train_on_people(Frozen(architecture=tmp_path / "absent.json"))


def test_first_order_moves_them_only_by_its_own_optimiser() -> None:
    module, before, weights = train_on_people(FirstOrder(lr=0.0))
    assert all(torch.equal(architecture(module)[name], before[name]) for name in before)
    assert moved_weights(module, weights)
    module, before, weights = train_on_people(FirstOrder(lr=0.003), lr=0.0, precision="bf16-mixed")
    assert all(value.isfinite().all() for value in architecture(module).values())
    assert not torch.equal(architecture(module)["head/alpha"], before["head/alpha"])
    assert not moved_weights(module, weights)


def displaced(data: ToyData, rows: list[int]) -> ToyData:
    """The same pictures with other joints in `rows`."""
    data.source.people.joints[rows] = 5.0  # type: ignore[attr-defined]
    return data


def first_moments(changed: ToyData) -> tuple[torch.Tensor, torch.Tensor]:
    """Adam's averaged gradients of alpha and of the one weight after one step."""
    strategy = FirstOrder()
    module, trainer = toy_fit(strategy, data=changed, max_steps=1)
    assert strategy.optimizer is not None
    alpha = module.network.architecture_parameters()["whole/alpha"]
    weight = trainer.optimizers[0].state[module.network.gain]["exp_avg"]
    return strategy.optimizer.state[alpha]["exp_avg"], weight


def test_first_order_reads_only_the_search_half() -> None:
    weight_rows, search_rows = ToyData().split_train(0.5, 0)
    assert sorted(weight_rows + search_rows) == list(range(32))
    alpha, weight = first_moments(ToyData())
    alpha_w, weight_w = first_moments(displaced(ToyData(), weight_rows))
    alpha_s, _ = first_moments(displaced(ToyData(), search_rows))
    assert torch.equal(alpha, alpha_w)
    assert not torch.equal(weight, weight_w)
    assert not torch.equal(alpha, alpha_s)


class HookedData(ToyData):
    """Counts the batches that are finished on the device."""

    finished = 0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.finished += 1
        return super().on_after_batch_transfer(batch, dataloader_idx)


@pytest.mark.parametrize("make", [FirstOrder, SecondOrder], ids=lambda m: m.__name__)
def test_one_architecture_step_for_each_step_of_the_weights_when_accumulating(make: Any) -> None:
    strategy, data = make(), HookedData()
    _, trainer = toy_fit(strategy, data=data, accumulate_grad_batches=2)
    # Half of 32 persons are left for the weights, in batches of 4; batches of both halves are finished.
    assert data.finished == 4 + 2
    assert strategy.optimizer is not None
    steps = {int(state["step"]) for state in strategy.optimizer.state.values()}
    assert steps == {trainer.global_step} == {2}


@pytest.mark.parametrize(
    "strategy",
    [Synchronous(warmup_epochs=1), FirstOrder(warmup_epochs=1), GumbelSoftmax(warmup_epochs=1)],
    ids=["synchronous", "first order", "gumbel"],
)
def test_nothing_moves_while_the_weights_warm_up(strategy: SearchStrategy) -> None:
    assert not any(v.any() for v in architecture(toy_fit(strategy, epochs=1)[0]).values())
    strategy = copy.deepcopy(strategy)
    assert architecture(toy_fit(strategy, epochs=2)[0])["whole/alpha"].any()


@pytest.mark.parametrize(
    "strategy",
    [Synchronous(lr_factor=10), FirstOrder(lr=0.1), SecondOrder(lr=0.1)],
    ids=["synchronous", "first order", "second order"],
)
def test_the_identity_that_solves_the_task_gets_most_weight(strategy: SearchStrategy) -> None:
    module, _ = toy_fit(strategy, epochs=8)
    weights = module.network.architecture_parameters()["whole/alpha"].softmax(-1)[0]
    names = module.network.named_fabrics()["cells"].theta.operations
    assert names[int(weights.argmax())] == "skip"
    assert weights.max() > 0.5


def test_gumbel_samples_are_distributed_like_the_softmax() -> None:
    strategy = GumbelSoftmax(first_temperature=5.0, last_temperature=0.5, warmup_epochs=2)
    assert strategy.temperature(2, 12) == pytest.approx(5.0)
    assert strategy.temperature(11, 12) == pytest.approx(0.5)
    strategy._temperature = 0.7
    strategy._generator.manual_seed(1)
    logits = torch.tensor([0.0, 1.0, -1.0])
    samples = strategy.sample(logits.expand(20_000, 3))
    torch.testing.assert_close(samples.sum(-1), torch.ones(20_000))
    # The largest of logits plus Gumbel noise is a draw from the softmax (Gumbel-max).
    frequency = torch.bincount(samples.argmax(-1), minlength=3) / 20_000
    torch.testing.assert_close(frequency, logits.softmax(-1), rtol=0, atol=0.015)


def test_gumbel_search_moves_them_and_evaluates_with_the_softmax() -> None:
    module, _ = toy_fit(GumbelSoftmax(), epochs=2)
    again, _ = toy_fit(GumbelSoftmax(), epochs=2)
    fabrics = module.network.named_fabrics()["cells"]
    assert architecture(module)["whole/alpha"].any()
    assert torch.equal(architecture(module)["whole/alpha"], architecture(again)["whole/alpha"])
    fabrics.eval()
    alpha, _ = fabrics.mixing_weights()
    torch.testing.assert_close(alpha[0, 0], fabrics.alpha["whole"].softmax(-1))


@pytest.mark.parametrize(
    "make", [FirstOrder, SecondOrder, GumbelSoftmax, Synchronous], ids=lambda m: m.__name__
)
def test_resuming_is_exact(make: type[SearchStrategy], tmp_path: Path) -> None:
    whole, _ = toy_fit(make(), epochs=4)
    callbacks = [first := make(), ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)]
    options = {"epochs": 4, "enable_checkpointing": True}
    toy_fit(first, callbacks=[*callbacks, StopAfter(2)], **options)
    strategy, last = make(), tmp_path / "last.ckpt"
    callbacks = [strategy, ModelCheckpoint(tmp_path / "again")]
    module, _ = toy_fit(strategy, callbacks=callbacks, resume=last, **options)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(module.network.state_dict()[name], value), name


class StopAfter(L.Callback):
    """Ends a run after some epochs, as an interruption would."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path: Path) -> None:
    script = Path(__file__).with_name("ddp_toy.py")
    for processes, batch_size in ((2, 4), (1, 8)):
        command = [sys.executable, str(script), str(tmp_path), str(processes), str(batch_size)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    states = {file.stem: torch.load(file, weights_only=True) for file in tmp_path.glob("*.pt")}
    assert set(states) == {"processes2_rank0", "processes2_rank1", "processes1_rank0"}
    for name, value in states["processes1_rank0"].items():
        assert torch.equal(states["processes2_rank0"][name], states["processes2_rank1"][name])
        found = states["processes2_rank0"][name]
        if "beta" in name:
            # The one cell's three neighbours are one map: beta's gradient is rounding noise, which Adam scales
            # up, the same in all three columns. The mixing weights are equal.
            found, value = found.softmax(-1), value.softmax(-1)
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-6)
    assert np.abs(states["processes1_rank0"]["cells.alpha.whole"].numpy()).max() > 0.1

"""Each strategy moves alpha and beta by what it should, and by nothing else."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from search_toy import SIZE, ToyData, ToySource, toy_fit, toy_module

from pnfs.body import MPII
from pnfs.data.crops import PoseBatch
from pnfs.data.module import PoseDataModule
from pnfs.data.synthetic import Synthetic
from pnfs.errors import PnfsError
from pnfs.models.architecture import describe_architecture, to_json
from pnfs.search import FirstOrder, Frozen, GumbelSoftmax, Random, SearchStrategy, SecondOrder, Synchronous
from pnfs.search.strategy import architecture_of
from pnfs.training.module import PoseModule
from tiny import fabric_network


def named(*strategies: type[SearchStrategy]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", strategies, ids=lambda make: make.__name__)


def architecture(module: PoseModule) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in module.network.architecture_parameters().items()}


def moves(strategy: SearchStrategy, lr: float = 1e-2, **options: Any) -> tuple[torch.Tensor, bool]:
    """By how much alpha moves away from 0, and whether the weights move."""
    module = toy_module(lr)
    before = module.network.gain.detach().clone()
    toy_fit(strategy, module, **options)
    return architecture(module)["whole/alpha"], not torch.equal(module.network.gain, before)


def test_random_is_drawn_by_seed_and_stays() -> None:
    alpha, trained = moves(Random(seed=5, std=2.0))
    assert torch.equal(alpha, 2 * torch.randn(1, 3, generator=torch.Generator().manual_seed(5)))
    assert trained


@named(Random, Frozen)
def test_what_a_derived_network_lacks_it_goes_on_to_lack(make: Any) -> None:
    module = toy_module(1e-2)
    architecture_of(module)[0].data[0, 0] = -torch.inf
    toy_fit(make(), module, max_steps=1)
    assert architecture(module)["whole/alpha"].isneginf().tolist() == [[True, False, False]]
    with pytest.raises(PnfsError, match=r"strategy\.weight_decay=0\.1"):
        toy_fit(Synchronous(weight_decay=0.1), module)


def test_synchronous_moves_them_by_the_weights_optimiser() -> None:
    # Adam's first step is the learning rate times the gradient's sign, whatever its size.
    alpha, trained = moves(Synchronous(lr_factor=0.5), max_steps=1)
    expected = torch.full_like(alpha, 1e-2 * 0.5)
    torch.testing.assert_close(alpha.abs(), expected, rtol=0.02, atol=0)
    assert trained


def test_first_order_moves_them_only_by_its_own_optimiser() -> None:
    alpha, trained = moves(FirstOrder(lr=0.003), lr=0.0, precision="bf16-mixed")
    assert not trained
    assert alpha.any()
    assert alpha.isfinite().all()


def people_module() -> PoseModule:
    torch.manual_seed(0)
    network = fabric_network({"head": ["head_top"], "rest": MPII.joints[1:]}, last_layers=1)
    metric = ToySource(1).metric("val")
    return PoseModule(network=network, metric=metric, optimizer=torch.optim.Adam)


def test_frozen_keeps_what_it_was_given(tmp_path: Path) -> None:
    donor, module = people_module(), people_module()
    for parameter in donor.network.architecture_parameters().values():
        torch.nn.init.normal_(parameter)
    file = tmp_path / "found.json"
    file.write_text(to_json(describe_architecture(donor.network)))  # type: ignore[arg-type]
    Frozen(file).prepare(module, L.Trainer(logger=False))
    for name, value in architecture(donor).items():
        assert torch.equal(architecture(module)[name], value)
    assert not any(p.requires_grad for p in module.network.architecture_parameters().values())
    alpha, trained = moves(Frozen())
    assert trained
    assert not alpha.any()
    file.write_text(to_json(describe_architecture(fabric_network(last_layers=1))))
    for wrong, named in ((file, "head"), (tmp_path / "absent.json", "absent")):
        with pytest.raises(PnfsError, match=named):
            Frozen(wrong).prepare(module, L.Trainer(logger=False))


def displaced(data: ToyData, rows: list[int]) -> ToyData:
    """The same pictures with other joints in `rows`."""
    data.dataset.people.joints[rows] = 5.0  # type: ignore[attr-defined]
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


@named(FirstOrder, SecondOrder)
def test_one_architecture_step_for_each_step_of_the_weights_when_accumulating(make: Any) -> None:
    strategy = make()
    _, trainer = toy_fit(strategy, accumulate_grad_batches=2)
    # Half of 32 persons are left for the weights, in batches of 4.
    steps = {int(state["step"]) for state in strategy.optimizer.state.values()}
    assert steps == {trainer.global_step} == {2}


@named(Synchronous, FirstOrder, GumbelSoftmax)
def test_nothing_moves_while_the_weights_warm_up(make: Any) -> None:
    before, after = (toy_fit(make(warmup_epochs=1), epochs=epochs)[0] for epochs in (1, 2))
    assert not any(v.any() for v in architecture(before).values())
    assert architecture(after)["whole/alpha"].any()


@named(Synchronous, FirstOrder, SecondOrder)
def test_the_identity_that_solves_the_task_gets_most_weight(make: Any) -> None:
    faster = {"lr_factor": 10} if make is Synchronous else {"lr": 0.1}
    module, _ = toy_fit(make(**faster), epochs=8)
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


def test_gumbel_noise_is_a_function_of_seed_and_step() -> None:
    def noise(seed: int, step: int) -> list[float]:
        epoch_loop = SimpleNamespace(total_batch_idx=step)
        trainer: Any = SimpleNamespace(
            fit_loop=SimpleNamespace(epoch_loop=epoch_loop), current_epoch=0, max_epochs=2
        )
        strategy: Any = GumbelSoftmax(seed)
        strategy.on_train_batch_start(trainer, None, None, 0)
        return strategy.sample(torch.zeros(3)).tolist()

    assert noise(1, 7) == noise(1, 7)
    assert noise(1, 7) != noise(1, 8)
    assert noise(1, 7) != noise(2, 7)


def test_the_search_half_comes_in_an_order_of_its_own() -> None:
    data = ToyData()
    data.weight_rows = data.architecture_rows = list(range(32))
    weights, search = (
        list(loader.sampler) for loader in (data.train_dataloader(), data.architecture_dataloader())
    )
    assert sorted(weights) == sorted(search)
    assert weights != search


@named(FirstOrder, SecondOrder, GumbelSoftmax, Synchronous)
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
    script = Path(__file__).with_name("search_toy.py")
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


# --- architecture gradients against plain computations


def shallow_module() -> tuple[PoseModule, PoseBatch, PoseBatch]:
    """A fabric in double precision with cells that lead nowhere, and a batch for each level."""
    torch.manual_seed(0)
    source, network = Synthetic(train=8, val=2, image_size=(48, 48)), fabric_network(last_layers=1).double()
    for parameter in network.architecture_parameters().values():
        torch.nn.init.normal_(parameter)
    module = PoseModule(network=network, metric=source.metric("val"), optimizer=torch.optim.Adam)
    data = PoseDataModule(dataset=source, input_size=(SIZE, SIZE), batch_size=4, workers=0)
    first, second = data.train_dataloader()
    return module.train(), first, second


def loss_of(module: PoseModule, batch: PoseBatch) -> torch.Tensor:
    part_maps = module.network(batch["image"])
    return module.loss(part_maps, batch, module.codec, module.network.map_joints)


def loss_after_a_step(module: PoseModule, step: float, train: PoseBatch, search: PoseBatch) -> float:
    """The search loss after one plain gradient step, on a copy of the weights."""
    network = module.network
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    weights = [p for p in network.weight_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss_of(module, train), weights, materialize_grads=True)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight -= step * gradient
        loss = loss_of(module, search).item()
        network.load_state_dict(kept)
    return loss


def test_second_order_gradient_equals_finite_differences() -> None:
    module, train, search = shallow_module()
    step = 0.5
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    found, _ = SecondOrder(unrolled_lr=step).architecture_gradients(module, train, search)
    for name, value in module.network.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was touched"
    first, _ = FirstOrder().architecture_gradients(module, train, search)
    difference = torch.cat([(a - b).flatten() for a, b in zip(found, first, strict=True)])
    assert difference.norm() > 1e-4 * torch.cat([g.flatten() for g in first]).norm()
    numeric = []
    for parameter in architecture_of(module):
        flat = parameter.data.view(-1)
        for index in range(len(flat)):
            values = []
            for sign in (1, -1):
                flat[index] += sign * 1e-5
                values.append(loss_after_a_step(module, step, train, search))
                flat[index] -= sign * 1e-5
            numeric.append((values[0] - values[1]) / 2e-5)
    exact = torch.cat([gradient.flatten() for gradient in found])
    approximate = torch.tensor(numeric, dtype=exact.dtype)
    assert (exact - approximate).norm() / approximate.norm() < 1e-3


def test_first_order_gradient_is_the_search_losss_own() -> None:
    module, train, search = shallow_module()
    strategy = FirstOrder()
    strategy.loss_scale = 2.0**20  # As in half precision; it makes no difference in double.
    found, loss = strategy.architecture_gradients(module, train, search)
    buffers = {name: value.clone() for name, value in module.network.named_buffers()}
    own = torch.autograd.grad(loss_of(module, search), architecture_of(module), materialize_grads=True)
    torch.testing.assert_close(found, list(own))
    # The plain pass moved running statistics; the strategy's pass had not.
    assert any(not torch.equal(v, buffers[n]) for n, v in module.network.named_buffers())
    assert loss.isfinite()

"""Architecture gradients against plain computations."""

from collections.abc import Callable

import pytest
import torch
from search_toy import SIZE, ToyData, toy_module

from pnfs.body import MPII
from pnfs.data.crops import PoseBatch
from pnfs.data.module import PoseDataModule
from pnfs.data.synthetic import Synthetic
from pnfs.models.backbones import MobileNetV2
from pnfs.search import FirstOrder, SecondOrder
from pnfs.search.strategy import architecture_of
from pnfs.training.module import PoseModule
from tiny import fabric_network


def tiny_module() -> tuple[PoseModule, PoseBatch, PoseBatch]:
    """A real fabric in double precision, and a batch for each level."""
    source = Synthetic(train=8, val=2, image_size=(48, 48))
    torch.manual_seed(0)
    parts = {"head": MPII.joints[:3], "body": MPII.joints[3:]}
    shape = {"layers": 3, "last_layers": 2, "vector_dim": 2}
    network = fabric_network(parts, backbone=MobileNetV2("none"), **shape).double()
    for parameter in network.architecture_parameters().values():
        torch.nn.init.normal_(parameter)
    # Only the fabrics take part in the look-ahead, so that the check stays small.
    network.backbone.requires_grad_(False)
    module = PoseModule(
        network=network,
        metric=source.metric("val"),
        optimizer=lambda groups: torch.optim.Adam(groups),
    )
    module.train()
    data = PoseDataModule(source=source, input_size=(SIZE, SIZE), batch_size=4, workers=0)
    first, second = data.train_dataloader()
    return module, first, second


def loss_of(module: PoseModule, batch: PoseBatch) -> torch.Tensor:
    part_maps = module.network(batch["image"])
    return module.loss(part_maps, batch, module.codec, module.network.map_joints)


def loss_after_a_step(module: PoseModule, step: float, train: PoseBatch, search: PoseBatch) -> float:
    """The search loss after one plain gradient step, on a copy of the weights."""
    network = module.network
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    weights = [p for p in network.weight_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss_of(module, train), weights)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight -= step * gradient
        loss = loss_of(module, search).item()
        network.load_state_dict(kept)
    return loss


def test_second_order_gradient_equals_finite_differences() -> None:
    module, train, search = tiny_module()
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
    module, train, search = tiny_module()
    found, loss = FirstOrder().architecture_gradients(module, train, search)
    buffers = {name: value.clone() for name, value in module.network.named_buffers()}
    loss_of(module, search).backward()
    for gradient, parameter in zip(found, architecture_of(module), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
    # The plain pass moved running statistics; the strategy's pass had not.
    assert any(not torch.equal(v, buffers[n]) for n, v in module.network.named_buffers())
    assert loss.isfinite()


def shallow_module() -> PoseModule:
    """A fabric with cells that lead nowhere."""
    torch.manual_seed(0)
    return PoseModule(
        network=fabric_network(last_layers=1).double(),
        metric=Synthetic(train=8, val=2).metric("val"),
        optimizer=lambda groups: torch.optim.Adam(groups),
    )


@pytest.mark.parametrize("make", [toy_module, shallow_module])
def test_second_order_without_a_step_is_first_order(make: Callable[[], PoseModule]) -> None:
    batches = ToyData(8).train_dataloader() if make is toy_module else tiny_module()[1:]
    module, (train, search) = make().train(), batches
    ahead, _ = SecondOrder(unrolled_lr=0.0).architecture_gradients(module, train, search)
    plain, _ = FirstOrder().architecture_gradients(module, train, search)
    for a, b in zip(ahead, plain, strict=True):
        torch.testing.assert_close(a, b)
    assert any(gradient.abs().max() > 0 for gradient in plain)

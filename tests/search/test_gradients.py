"""Architecture gradients against plain computations."""

import torch
from search_toy import SIZE

from pnfs.data.crops import PoseBatch
from pnfs.data.module import PoseDataModule
from pnfs.data.synthetic import Synthetic
from pnfs.search import FirstOrder, SecondOrder
from pnfs.search.strategy import architecture_of
from pnfs.training.module import PoseModule
from tiny import fabric_network


def shallow_module() -> tuple[PoseModule, PoseBatch, PoseBatch]:
    """A fabric in double precision with cells that lead nowhere, and a batch for each level."""
    torch.manual_seed(0)
    source, network = Synthetic(train=8, val=2, image_size=(48, 48)), fabric_network(last_layers=1).double()
    for parameter in network.architecture_parameters().values():
        torch.nn.init.normal_(parameter)
    module = PoseModule(network=network, metric=source.metric("val"), optimizer=torch.optim.Adam)
    data = PoseDataModule(source=source, input_size=(SIZE, SIZE), batch_size=4, workers=0)
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
    found, loss = FirstOrder().architecture_gradients(module, train, search)
    buffers = {name: value.clone() for name, value in module.network.named_buffers()}
    own = torch.autograd.grad(loss_of(module, search), architecture_of(module), materialize_grads=True)
    torch.testing.assert_close(found, list(own))
    # The plain pass moved running statistics; the strategy's pass had not.
    assert any(not torch.equal(v, buffers[n]) for n, v in module.network.named_buffers())
    assert loss.isfinite()

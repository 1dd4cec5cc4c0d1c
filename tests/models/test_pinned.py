"""Initial values by seed, outputs and losses of 20 steps, against those of an earlier build of the models."""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pnfs.models import PAPER, POSENFS, PoseFabricNetwork
from pnfs.models.backbones import MobileNetV2
from tiny import fabric_backbone, fabric_network, table_one

PINNED = Path(__file__).parents[1] / "fixtures" / "pinned.npz"
STEPS = 20
LEARNING_RATE = 1e-4
CHANNELS = 4
# Smaller batches make batch norms at 1/32 so ill-conditioned that rounding decides after a few steps.
BATCH = 4
KEPT_VALUES = 48
RULES = {"paper": PAPER, "reference": POSENFS}


class Case(NamedTuple):
    parts: int
    preset: str
    nodes: int
    backbone: str

    @property
    def name(self) -> str:
        return f"p{self.parts}/{self.preset}/h{self.nodes}/{self.backbone}"


CHOICES = itertools.product((1, 3, 8), RULES, (1, 2), ("mobilenet", "fabric"))
CASES = [Case(*choice) for choice in CHOICES]


def build(case: Case, seed: int = 0) -> PoseFabricNetwork:
    """The network with the initial values of `seed`."""
    shape = {"channels": CHANNELS, "nodes": case.nodes, "rules": RULES[case.preset]}
    torch.manual_seed(seed)
    mobile = case.backbone == "mobilenet"
    backbone = MobileNetV2("none") if mobile else fabric_backbone(**shape)
    return fabric_network(table_one("mpii", case.parts), backbone=backbone, **shape)


def observe(case: Case) -> dict[str, np.ndarray]:
    """What is pinned of a case, without names in a state dict; steps are in double precision, to round little."""
    network = build(case)
    initial = sorted((p.numel(), *_sums(p.detach())) for p in network.parameters())
    found = {"initial": np.array(initial, np.float64), "draw": torch.rand(4).double().numpy()}
    logits = network.architecture_parameters()
    found["architecture"] = np.array(list(logits))
    generator = torch.Generator().manual_seed(1)
    for parameter in logits.values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    images = torch.randn(BATCH, 3, 64, 64, generator=generator)
    with torch.no_grad():
        found["single"] = _sample(network.eval()(images))
    network.double()
    images = images.double()
    network.calibrate(images)
    with torch.no_grad():
        found["calibrated"] = _sample(network(images))
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    losses = []
    for step in range(STEPS):
        maps = network(images)
        if step == 0:
            found["training"] = _sample(maps.detach())
            targets = torch.rand(maps.shape, generator=generator).double()
        loss = F.mse_loss(maps, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found["losses"] = np.array(losses)
    with torch.no_grad():
        found["trained"] = _sample(network.eval()(images))
    found["logits"] = np.array([_sums(p.detach())[1] for p in logits.values()])
    return {f"{case.name}/{name}": value for name, value in found.items()}


def _sums(values: Tensor) -> tuple[float, float]:
    exact = values.double()
    return exact.sum().item(), exact.abs().sum().item()


def _sample(maps: Tensor) -> np.ndarray:
    """Values at even distances over the whole batch, a number prime to the maps' sides apart."""
    flat = maps.flatten()
    return flat[:: max(1, len(flat) // KEPT_VALUES) | 1].double().numpy()


# The rest, which says little more, takes minutes.
QUICK = {"p3/paper/h1/fabric", "p8/reference/h1/fabric", "p3/reference/h1/fabric"}

# Here the rounding of one step is larger in each later one: after 15 steps the losses differ by 2e-5.
ILL_CONDITIONED = {"p1/paper/h2/fabric"}
FIRST_STEPS = 10


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[] if c.name in QUICK else pytest.mark.slow) for c in CASES]
)
def test_the_numbers_are_the_recorded_ones(case: Case) -> None:
    with np.load(PINNED) as recorded:
        expected = {name: recorded[name] for name in recorded if name.startswith(f"{case.name}/")}
    found = observe(case)
    assert sorted(found) == sorted(expected)
    for name, value in found.items():
        kind, recorded = name.removeprefix(f"{case.name}/"), expected[name]
        if kind in ("architecture", "draw"):
            assert value.tolist() == recorded.tolist(), name
            continue
        # Sums of equal values in another order; steps in double precision.
        tolerance = {"rtol": 1e-12 if kind == "initial" else 1e-5, "atol": 1e-7}
        if case.name in ILL_CONDITIONED and kind in ("losses", "trained"):
            np.testing.assert_allclose(value, recorded, rtol=1e-4, atol=1e-5, err_msg=name)
            value, recorded = value[:FIRST_STEPS], recorded[:FIRST_STEPS]
            if kind == "trained":
                continue
        np.testing.assert_allclose(value, recorded, **tolerance, err_msg=name)

"""Numbers that a rebuild of the models must keep: initial values by seed, outputs, losses of 20 steps.

`python tests/models/pinned.py FILE` writes the numbers of the code at hand; tests/fixtures/pinned.npz was written
before the models were rebuilt with one tensor for all parts. Values are stored in an order that does not depend
on the names in a state dict.
"""

import itertools
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from pnfs.models import PAPER, POSENFS, NeuralFabrics, PoseFabricNetwork
from pnfs.models.backbones import Backbone, FabricBackbone, MobileNetV2, Stem
from pnfs.models.operations import BACKBONE_OPERATIONS

STEPS = 20
LEARNING_RATE = 1e-4
CHANNELS = 4
# Smaller batches make batch norms at 1/32 so ill-conditioned that rounding decides after a few steps.
BATCH = 4
KEPT_VALUES = 48
CONFIGURATION = Path(__file__).parents[2] / "conf"


@dataclass(frozen=True)
class Case:
    """One network: P parts, a preset, H hidden nodes, a backbone."""

    parts: int
    preset: str
    nodes: int
    backbone: str

    @property
    def name(self) -> str:
        return f"p{self.parts}/{self.preset}/h{self.nodes}/{self.backbone}"


CASES = [
    Case(*choice)
    for choice in itertools.product(
        (1, 3, 8), ("paper", "reference"), (1, 2), ("mobilenet", "fabric")
    )
]


def build(case: Case, seed: int = 0) -> PoseFabricNetwork:
    """The network with the initial values of `seed`."""
    rules = {"paper": PAPER, "reference": POSENFS}[case.preset]
    groups = yaml.safe_load((CONFIGURATION / f"parts/p{case.parts}.yaml").read_text())["mpii"]
    fabric = partial(NeuralFabrics, channels=CHANNELS, nodes=case.nodes, rules=rules)
    torch.manual_seed(seed)
    backbone: Backbone = (
        MobileNetV2("none")
        if case.backbone == "mobilenet"
        else FabricBackbone(
            stem=Stem(CHANNELS, rules.stem_relu),
            fabrics=fabric(
                part_names=("backbone",),
                first_layers=3,
                input_scales=(4,),
                operations=BACKBONE_OPERATIONS,
            ),
        )
    )
    return PoseFabricNetwork(
        backbone=backbone,
        fabrics=fabric(part_names=tuple(groups), last_layers=3),
        skeleton="mpii",
        parts=groups,
    )


def observe(case: Case) -> dict[str, np.ndarray]:
    """What is pinned of a case; steps are taken in double precision, where rounding stays small.

    Returns:
        "initial": (parameters, 3), number of values, sum, sum of magnitudes, sorted; "draw": the next
        draw after the initialisation; "architecture": names of alpha and beta in order; samples of the maps:
        "single" before all else in single precision, "calibrated" after the calibration in evaluation mode,
        "training" in training mode, "trained" in evaluation mode after the steps; "losses": (20,);
        "logits": sums of magnitudes of alpha and beta after the steps.
    """
    network = build(case)
    found = {
        "initial": np.array(
            sorted((p.numel(), *_sums(p.detach())) for p in network.parameters()), np.float64
        ),
        "draw": torch.rand(4).double().numpy(),
    }
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    numbers: dict[str, np.ndarray] = {}
    for pinned_case in CASES:
        print(pinned_case.name, flush=True)
        numbers |= observe(pinned_case)
    np.savez_compressed(Path(sys.argv[1]), **numbers)  # pyright: ignore[reportArgumentType]

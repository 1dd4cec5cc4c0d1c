"""Small networks for the tests, each of one call, and ways to take them off their initial values."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from pnfs.body import skeleton_by_name
from pnfs.models import PAPER, FabricRules, NeuralFabrics, PoseFabricNetwork
from pnfs.models.backbones import Backbone, FabricBackbone, Stem
from pnfs.models.operations import BACKBONE_OPERATIONS, Operations

SILENT = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
          "enable_model_summary": False}  # fmt: skip
"""Arguments of a trainer that writes nothing."""
OF_NETWORK = ("vector_dim", "overlap", "channel_order")


class TinyBackbone(Backbone):
    """Four 1x1 convolutions without bias on the averaged image."""

    channels = (3, 4, 5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, c, 1, bias=False) for c in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        convs = zip(self.convs, (4, 8, 16, 32), strict=True)
        return [conv(F.avg_pool2d(images, scale)) for conv, scale in convs]


def table_one(skeleton: str, count: int) -> dict[str, list[str]]:
    """Table I's parts of a skeleton, as they are configured."""
    folder = Path(__file__).parents[1] / "conf" / "parts"
    return yaml.safe_load((folder / f"p{count}.yaml").read_text())[skeleton]


def fabric_backbone(
    first_layers: int = 3,
    channels: int = 1,
    *,
    layers: int | None = None,
    rules: FabricRules = PAPER,
    operations: Operations = BACKBONE_OPERATIONS,
    **theta: Any,
) -> FabricBackbone:
    """A fabric backbone with the initial values that the configuration's has."""
    stem = Stem(channels, rules.stem_relu)
    fabrics = NeuralFabrics(
        part_names=("backbone",),
        layers=first_layers + 3 if layers is None else layers,
        first_layers=first_layers,
        input_scales=(4,),
        channels=channels,
        rules=rules,
        operations=operations,
        **theta,
    )
    return FabricBackbone(stem=stem, fabrics=fabrics)


def fabric_network(
    parts: Mapping[str, Sequence[str]] | None = None,
    *,
    backbone: Backbone | None = None,
    skeleton: str = "mpii",
    last_layers: int = 3,
    channels: int = 1,
    **others: Any,
) -> PoseFabricNetwork:
    """Fabrics (n = `last_layers`, C = `channels`) on a backbone, a fabric of three layers unless one is given.

    `parts`: part -> joints; None for the whole body. `others`: arguments of `NeuralFabrics`, `PoseFabricNetwork`.
    """
    parts = {"whole": skeleton_by_name(skeleton).joints} if parts is None else parts
    of_network = {name: others.pop(name) for name in OF_NETWORK if name in others}
    backbone = fabric_backbone(rules=others.get("rules", PAPER)) if backbone is None else backbone
    fabrics = NeuralFabrics(part_names=tuple(parts), last_layers=last_layers, channels=channels, **others)
    return PoseFabricNetwork(backbone=backbone, fabrics=fabrics, skeleton=skeleton, parts=parts, **of_network)


def randomise_statistics(module: nn.Module) -> None:
    """Means and variances of all batch norms off their initial values."""
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            buffer.normal_(0, 0.3)


def randomise(module: nn.Module) -> None:
    """Weights, statistics, alpha and beta off their initial values."""
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter) / 2)
    randomise_statistics(module)


def scramble(network: PoseFabricNetwork, seed: int) -> PoseFabricNetwork:
    """Random weights, statistics and logits, a third of the logits minus infinity; in evaluation mode."""
    torch.manual_seed(seed)
    randomise_statistics(network)
    for parameter in network.weight_parameters():
        if parameter.dim() == 1:
            # Negative scales of batch norms too.
            parameter.data.normal_(0.1, 0.5)
    for parameter in network.architecture_parameters().values():
        nn.init.normal_(parameter)
        drop = torch.rand_like(parameter) < 0.35
        drop[..., int(torch.randint(parameter.shape[-1], ()))] = False
        parameter.data[drop] = -math.inf
    return network.eval()

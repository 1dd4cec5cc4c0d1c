"""A small backbone, and networks away from their initial values."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnfs.models import PoseFabricNetwork
from pnfs.models.backbones import Backbone


class TinyBackbone(Backbone):
    """Four 1x1 convolutions without bias on the averaged image."""

    channels = (3, 4, 5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, c, 1, bias=False) for c in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [
            conv(F.avg_pool2d(images, scale))
            for conv, scale in zip(self.convs, (4, 8, 16, 32), strict=True)
        ]


def randomise(module: nn.Module) -> None:
    """Weights, statistics, alpha and beta off their initial values."""
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter) / 2)
    for name, buffer in module.named_buffers():
        if name.endswith("var"):
            buffer.uniform_(0.5, 2)
        elif name.endswith("mean"):
            buffer.normal_()


def scramble(network: PoseFabricNetwork, seed: int) -> PoseFabricNetwork:
    """Random weights, statistics and logits, a third of the logits minus infinity; in evaluation mode."""
    torch.manual_seed(seed)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
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

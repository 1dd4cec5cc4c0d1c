"""SimpleBaseline: a backbone and three transposed convolutions (B. Xiao et al., arXiv 1804.06208)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.models.backbones import Backbone
from pnfs.models.baselines.baseline import Baseline
from pnfs.models.network import ChannelOrder

_LAYERS = 3
_INITIAL_STD = 0.001


class SimpleBaseline(Baseline):
    """The backbone's map at 1/32, upsampled to 1/4 by three 4x4 transposed convolutions.

    Args:
        backbone: ResNet-50, 101 or 152 in the publication; any other will do.
        skeleton: Name of the skeleton whose joints are predicted.
        vector_dim: d; 1 is the ordinary scalar score map, as published.
        filters: Channels of each transposed convolution.
        channel_order: Order of the input's colours; public SimpleBaselines are trained on "bgr".
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        skeleton: str,
        vector_dim: int = 1,
        filters: int = 256,
        channel_order: ChannelOrder = "rgb",
    ) -> None:
        super().__init__(skeleton, filters, vector_dim, channel_order)
        self.backbone = backbone
        self.upsampling = _upsampling(backbone.channels[-1], filters)
        self.to(memory_format=torch.channels_last)

    def features(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B C h/4 w/4"]:
        return self.upsampling(self.backbone(images)[-1])


def _upsampling(channels: int, filters: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(_LAYERS):
        deconvolution = nn.ConvTranspose2d(
            channels if index == 0 else filters, filters, 4, stride=2, padding=1, bias=False
        )
        nn.init.normal_(deconvolution.weight, std=_INITIAL_STD)
        layers += [deconvolution, nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)

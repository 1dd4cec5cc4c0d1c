"""SimpleBaseline: a backbone and three transposed convolutions (B. Xiao et al., arXiv 1804.06208)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.models.backbones import Backbone
from pnfs.models.head import VectorHead
from pnfs.models.network import ChannelOrder, PoseNetwork


class SimpleBaseline(PoseNetwork):
    """The backbone's map at 1/32, upsampled to 1/4 by three 4x4 transposed convolutions.

    Args:
        backbone: ResNet-50, 101 or 152 in the publication; any other will do.
        skeleton: Name of the skeleton whose joints are predicted.
        vector_dim: d; 1 is the ordinary scalar heatmap, as published, larger ones are Table VI's "+ vector".
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
        super().__init__(skeleton, channel_order=channel_order)
        # The head's ReLU changes nothing: the features have been rectified.
        self.head = VectorHead(filters, self.parts.joint_counts, vector_dim)
        self.backbone = backbone
        layers: list[nn.Module] = []
        for channels in (backbone.channels[-1], filters, filters):
            convolution = nn.ConvTranspose2d(channels, filters, 4, stride=2, padding=1, bias=False)
            nn.init.normal_(convolution.weight, std=0.001)
            layers += [convolution, nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
        self.upsampling = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)

    def features(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B C h/4 w/4"]:
        return self.upsampling(self.backbone(images)[-1])

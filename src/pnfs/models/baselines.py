"""Hand-designed pose networks to compare with: SimpleBaseline and HRNet."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.errors import PnfsError
from pnfs.models.backbones import Backbone, HRNet
from pnfs.models.head import VectorHead
from pnfs.models.network import ChannelOrder, PoseNetwork

# A baseline's features have been rectified: the head's ReLU changes nothing. vector_dim=1 is the ordinary scalar
# heatmap, as published, larger ones are Table VI's "+ vector".


class HRNetPose(PoseNetwork):
    """HRNet, read at 1/4 (K. Sun et al., arXiv 1902.09212); public ones are trained on "rgb" images.

    `backbone` is an `HRNet` with `last_stage=4` and `finest_only=True`.
    """

    def __init__(
        self, *, backbone: HRNet, skeleton: str, vector_dim: int = 1, channel_order: ChannelOrder = "rgb"
    ) -> None:
        super().__init__(skeleton, channel_order=channel_order)
        if len(backbone.channels) != 1:
            raise PnfsError("model.backbone needs last_stage=4 and finest_only=true")
        self.head = VectorHead(backbone.channels[0], self.parts.joint_counts, vector_dim)
        self.backbone = backbone
        self.to(memory_format=torch.channels_last)

    def features(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B C h/4 w/4"]:
        return self.backbone(images)[0]


class SimpleBaseline(PoseNetwork):
    """A backbone's map at 1/32, upsampled to 1/4 by three 4x4 transposed convolutions (arXiv 1804.06208).

    The backbone is a ResNet in the publication, the transposed convolutions have `filters` channels; public ones
    are trained on "bgr" images.
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

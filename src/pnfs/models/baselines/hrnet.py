"""HRNet as a pose network: its map at 1/4 and a head (K. Sun et al., arXiv 1902.09212)."""

import torch
from jaxtyping import Float
from torch import Tensor

from pnfs.errors import PnfsError
from pnfs.models.backbones import HRNet
from pnfs.models.head import VectorHead
from pnfs.models.network import ChannelOrder, PoseNetwork


class HRNetPose(PoseNetwork):
    """The whole HRNet, read at 1/4.

    Args:
        backbone: An `HRNet` with `last_stage=4` and `finest_only=True`.
        skeleton: Name of the skeleton whose joints are predicted.
        vector_dim: d; 1 is the ordinary scalar heatmap, as published, larger ones are Table VI's "+ vector".
        channel_order: Order of the input's colours; public HRNets are trained on "rgb".
    """

    def __init__(
        self,
        *,
        backbone: HRNet,
        skeleton: str,
        vector_dim: int = 1,
        channel_order: ChannelOrder = "rgb",
    ) -> None:
        super().__init__(skeleton, channel_order=channel_order)
        if len(backbone.channels) != 1:
            raise PnfsError(
                "model.backbone needs last_stage=4 and finest_only=true: the pose network reads "
                "HRNet's finest map alone"
            )
        # The head's ReLU changes nothing: the features have been rectified.
        self.head = VectorHead(backbone.channels[0], self.parts.joint_counts, vector_dim)
        self.backbone = backbone
        self.to(memory_format=torch.channels_last)

    def features(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B C h/4 w/4"]:
        return self.backbone(images)[0]

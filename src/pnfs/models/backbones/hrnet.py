"""HRNet as a feature pyramid (timm's network; K. Sun et al., arXiv 1902.09212)."""

from typing import Literal

import timm
from jaxtyping import Float
from timm.models.hrnet import HighResolutionModule, HighResolutionNet
from torch import Tensor, nn

from pnfs.errors import PnfsError
from pnfs.models.backbones.pyramid import Backbone, load_part_of, read_weights
from pnfs.models.wiring import SCALES

_CLASSIFIER = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")
_LAST_STAGE = ("stage4.",)
# In stage 4's third module, what makes the maps at 1/8, 1/16 and 1/32.
_COARSE_FUSION = tuple(f"stage4.2.fuse_layers.{level}." for level in (1, 2, 3))


class HRNet(Backbone):
    """Parallel branches at 1/4 to 1/32, of W, 2W, 4W and 8W channels.

    Args:
        width: W, 32 or 48.
        last_stage: 3 ends with stage 3 and the convolution from 1/16 to 1/32 that opens stage 4's fourth
            branch (Table V, ours-a and ours-b); 4 is the whole network.
        finest_only: Make the map at 1/4 alone, as the pose network does; without the layers
            that lead to the coarser ones. Needs stage 4.
        weights: "imagenet" (timm's download), "none", or the path of a state dict in HRNet's naming, which
            is timm's too.

    Raises:
        ValueError: The arguments contradict each other, or the weights cannot be had or do not fit.
    """

    def __init__(
        self,
        width: Literal[32, 48] = 32,
        last_stage: Literal[3, 4] = 3,
        finest_only: bool = False,
        weights: str = "imagenet",
    ) -> None:
        super().__init__()
        if width not in (32, 48):
            raise PnfsError(f"backbone.width={width}: there are HRNets of width 32 and 48")
        if last_stage not in (3, 4):
            raise PnfsError(f"backbone.last_stage must be 3 or 4, got {last_stage}")
        if finest_only and last_stage != 4:
            raise PnfsError("backbone.finest_only needs backbone.last_stage=4")
        name = f"hrnet_w{width}"
        network = timm.create_model(name, features_only=True, feature_location="")
        assert isinstance(network, HighResolutionNet)
        unused = _CLASSIFIER
        if last_stage == 3:
            network.add_module("stage4", nn.Identity())
            unused += _LAST_STAGE
        elif finest_only:
            # Without what makes the last module's coarser outputs.
            last = network.stage4[-1]
            assert isinstance(last, HighResolutionModule)
            assert isinstance(last.fuse_layers, nn.ModuleList)
            last.fuse_layers, last.multi_scale_output = last.fuse_layers[:1], False
            unused += _COARSE_FUSION
        self.network = network
        count = 1 if finest_only else len(SCALES)
        self.channels = tuple(width * 2**level for level in range(count))
        state = read_weights(
            weights,
            lambda: timm.create_model(name, pretrained=True).state_dict(),
            f"HRNet-W{width}",
        )
        if state is not None:
            load_part_of(self.network, state, unused, f"weights {weights}")

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> list[Float[Tensor, "B C_s h_s w_s"]]:
        net = self.network
        x = net.act1(net.bn1(net.conv1(images)))
        return net.stages(net.act2(net.bn2(net.conv2(x))))

"""ResNets as feature pyramids (torchvision's networks, without their classifiers)."""

from collections.abc import Mapping
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import (
    ResNet50_Weights,
    ResNet101_Weights,
    ResNet152_Weights,
    resnet50,
    resnet101,
    resnet152,
)

from pnfs.models.backbones.pyramid import Backbone, load_part_of, read_weights

Depth = Literal[50, 101, 152]

_NETWORKS = {50: resnet50, 101: resnet101, 152: resnet152}
# The first weights of each: those that the public pose networks start from.
_IMAGENET = {
    50: ResNet50_Weights.IMAGENET1K_V1,
    101: ResNet101_Weights.IMAGENET1K_V1,
    152: ResNet152_Weights.IMAGENET1K_V1,
}


class ResNet(Backbone):
    """Outputs of the four residual stages.

    Args:
        depth: 50, 101 or 152 layers.
        weights: "imagenet", "none", or the path of a state dict in torchvision's naming.

    Raises:
        ValueError: There is no such depth; the weights cannot be had or do not fit.
    """

    channels = (256, 512, 1024, 2048)

    def __init__(self, depth: Depth = 50, weights: str = "imagenet") -> None:
        super().__init__()
        if depth not in _NETWORKS:
            raise ValueError(f"backbone.depth={depth}: there are ResNets of depth 50, 101, 152")
        network = _NETWORKS[depth](weights=None)
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.relu, self.maxpool = network.relu, network.maxpool
        self.layer1: nn.Sequential = network.layer1
        self.layer2: nn.Sequential = network.layer2
        self.layer3: nn.Sequential = network.layer3
        self.layer4: nn.Sequential = network.layer4
        name = f"ResNet-{depth}"

        def download() -> Mapping[str, Tensor]:
            return _IMAGENET[depth].get_state_dict(progress=True)

        state = read_weights(weights, download, name)
        if state is not None:
            load_part_of(self, state, ("fc.",), f"weights {weights}")

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> list[Float[Tensor, "B C_s h_s w_s"]]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        pyramid = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            pyramid.append(x)
        return pyramid

"""ResNet-50 as a feature pyramid (torchvision's network, without its classifier)."""

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50

from pnfs.models.backbones.pyramid import Backbone, load_part_of, read_weights


class ResNet50(Backbone):
    """Outputs of the four residual stages.

    Args:
        weights: "imagenet", "none", or the path of a state dict in torchvision's naming.
    """

    channels = (256, 512, 1024, 2048)

    def __init__(self, weights: str = "imagenet") -> None:
        super().__init__()
        network = resnet50(weights=None)
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.relu, self.maxpool = network.relu, network.maxpool
        self.layer1: nn.Sequential = network.layer1
        self.layer2: nn.Sequential = network.layer2
        self.layer3: nn.Sequential = network.layer3
        self.layer4: nn.Sequential = network.layer4
        state = read_weights(
            weights,
            lambda: ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=True),
            "ResNet-50",
        )
        if state is not None:
            load_part_of(self, state, ("fc.",), f"weights {weights}")

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> list[Float[Tensor, "B C_s h_s w_s"]]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        pyramid = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            pyramid.append(x)
        return pyramid

"""MobileNet-V2 as a feature pyramid (torchvision's network, without what the pyramid never reads)."""

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from pnfs.models.backbones.pyramid import Backbone, load_part_of, read_weights


class MobileNetV2(Backbone):
    """Maps after features 3, 6, 13 and 16 of MobileNet-V2.

    The last inverted residual block and the classifier are not built: the authors' code keeps them, but
    no output depends on them.

    Args:
        weights: "imagenet", "none", or the path of a state dict in torchvision's naming.
    """

    channels = (24, 32, 96, 160)
    _taps = (3, 6, 13, 16)

    def __init__(self, weights: str = "imagenet") -> None:
        super().__init__()
        self.features: nn.Sequential = mobilenet_v2(weights=None).features[: self._taps[-1] + 1]
        state = read_weights(
            weights,
            lambda: MobileNet_V2_Weights.IMAGENET1K_V2.get_state_dict(progress=True),
            "MobileNet-V2",
        )
        if state is not None:
            load_part_of(
                self, state, ("features.17.", "features.18.", "classifier."), f"weights {weights}"
            )

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> list[Float[Tensor, "B C_s h_s w_s"]]:
        pyramid = []
        x = images
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self._taps:
                pyramid.append(x)
        return pyramid

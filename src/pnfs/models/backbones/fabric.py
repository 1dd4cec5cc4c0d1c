"""A fabric as the backbone: the first m layers of the grid on a small stem (Fabric-1/2/3 of Fig. 5)."""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

from pnfs.errors import PnfsError
from pnfs.models.backbones.pyramid import Backbone
from pnfs.models.fabric import NeuralFabrics
from pnfs.models.wiring import SCALES


class Stem(nn.Sequential):
    """Two stride-2 convolutions of 64 channels to 1/4, then a 1x1 convolution to the fabric's.

    Args:
        channels: C of the fabric.
        relu: Whether the first convolution is followed by a ReLU.
    """

    def __init__(self, channels: int, relu: bool = True) -> None:
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False),
            "norm1": nn.BatchNorm2d(64),
            "relu1": nn.ReLU() if relu else nn.Identity(),
            "conv2": nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False),
            "norm2": nn.BatchNorm2d(64),
            "relu2": nn.ReLU(),
            "project": nn.Conv2d(64, channels * SCALES[0], 1, bias=False),
        }
        super().__init__(OrderedDict(layers))


class FabricBackbone(Backbone):
    """The first layers of a fabric, on a stem.

    Args:
        stem: Images to the one map that feeds the first layer.
        fabrics: One fabric, of the part "backbone", of which first layers are built.
        weights: Only "none": there are no published weights of a fabric.

    Raises:
        ValueError: The last layer has fewer than four scales, so that there is no pyramid.
    """

    def __init__(self, *, stem: Stem, fabrics: NeuralFabrics, weights: str = "none") -> None:
        super().__init__()
        if weights != "none":
            raise PnfsError(
                f"backbone.weights={weights}: a fabric backbone has no published weights; use none"
            )
        theta = fabrics.theta
        if theta.output_scales != SCALES:
            raise PnfsError(
                f"layer {theta.last_layer} of {theta.layers} has only the scales "
                f"{', '.join(f'1/{s}' for s in theta.output_scales)}; a backbone needs 1/4 to 1/32: keep at least "
                "3 first_layers and leave at least 3 more in `layers`"
            )
        self.stem, self.fabrics = stem, fabrics
        self.channels = tuple(theta.channels * scale for scale in SCALES)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> list[Float[Tensor, "B C_s h_s w_s"]]:
        outputs = self.fabrics({SCALES[0]: self.stem(images)})
        # A derived backbone lacks the scales that no part reads.
        return [outputs[s] if s in outputs else images.new_empty(0) for s in SCALES]

"""torchvision's networks as feature pyramids, without what the pyramid never reads."""

from collections.abc import Sequence
from typing import Literal

from torch import nn
from torch.fx import GraphModule
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from pnfs.errors import PnfsError
from pnfs.models.backbones.pyramid import Backbone, load_part_of, read_weights


class TorchvisionBackbone(GraphModule, Backbone):
    """Maps after some layers of one of torchvision's networks, whose names it keeps.

    Args:
        network: With random weights.
        layers: Names of the layers after which the maps at 1/4, 1/8, 1/16 and 1/32 are taken.
        weights: "imagenet", "none", or the path of a state dict in torchvision's naming.
        imagenet: The weights that "imagenet" downloads.
        unused: Beginnings of the names, in a state dict, of what is not built here.

    Raises:
        ValueError: The weights cannot be had or do not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        weights: str,
        imagenet: models.WeightsEnum,
        unused: tuple[str, ...],
    ) -> None:
        extractor = create_feature_extractor(network, list(layers))
        graph = extractor.graph
        (output,) = (node for node in graph.nodes if node.op == "output")
        # The maps themselves, in place of a dictionary of them.
        output.args = (list(output.args[0].values()),)
        super().__init__(extractor, graph)
        state = read_weights(weights, lambda: imagenet.get_state_dict(progress=True), str(imagenet))
        if state is not None:
            load_part_of(self, state, unused, f"weights {weights}")


class MobileNetV2(TorchvisionBackbone):
    """Maps after features 3, 6, 13 and 16 of MobileNet-V2.

    The last inverted residual block and the classifier are not built: the authors' code keeps them, but
    no output depends on them.

    Args:
        weights: "imagenet", "none", or the path of a state dict in torchvision's naming.
    """

    channels = (24, 32, 96, 160)

    def __init__(self, weights: str = "imagenet") -> None:
        layers = [f"features.{layer}" for layer in (3, 6, 13, 16)]
        imagenet = models.MobileNet_V2_Weights.IMAGENET1K_V2
        unused = ("features.17.", "features.18.", "classifier.")
        super().__init__(models.mobilenet_v2(), layers, weights, imagenet, unused)


class ResNet(TorchvisionBackbone):
    """Outputs of the four residual stages.

    Args:
        depth: 50, 101 or 152 layers.
        weights: "imagenet", "none", or the path of a state dict in torchvision's naming.

    Raises:
        ValueError: There is no such depth; the weights cannot be had or do not fit.
    """

    channels = (256, 512, 1024, 2048)

    def __init__(self, depth: Literal[50, 101, 152] = 50, weights: str = "imagenet") -> None:
        # The first weights of each: those that the public pose networks start from.
        known = {
            50: (models.resnet50, models.ResNet50_Weights.IMAGENET1K_V1),
            101: (models.resnet101, models.ResNet101_Weights.IMAGENET1K_V1),
            152: (models.resnet152, models.ResNet152_Weights.IMAGENET1K_V1),
        }
        if depth not in known:
            raise PnfsError(f"backbone.depth={depth}: there are ResNets of depth 50, 101, 152")
        build, imagenet = known[depth]
        layers = [f"layer{stage}" for stage in (1, 2, 3, 4)]
        super().__init__(build(), layers, weights, imagenet, ("fc.",))

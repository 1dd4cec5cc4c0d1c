"""Backbones, images to feature pyramids at 1/4, 1/8, 1/16 and 1/32; and state dicts, loaded strictly."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import GraphModule
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from pnfs.errors import PnfsError
from pnfs.models.fabric import NeuralFabrics
from pnfs.models.wiring import SCALES

Pyramid = list[Float[Tensor, "B C_s h_s w_s"]]


class Backbone(nn.Module):
    """Images (B, 3, h, w) to maps at 1/4, 1/8, 1/16 and 1/32, h and w divisible by 32.

    Those that take `weights` are given "imagenet" (a download), "none", or the path of a state dict in the naming
    of torchvision, timm or HRNet, classifier included; PnfsError where these cannot be had or do not fit.

    Attributes:
        channels: Channels of the four maps; of the one at 1/4 where a backbone makes only that.
    """

    channels: tuple[int, ...]

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Pyramid:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")


class TorchvisionBackbone(GraphModule, Backbone):
    """Maps after `layers` of one of torchvision's networks, whose names it keeps; what comes later is not built.

    `imagenet` is what "imagenet" downloads, `unused` begins the names, in a state dict, of what is not built.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: list[str],
        weights: str,
        imagenet: models.WeightsEnum,
        unused: tuple[str, ...],
    ) -> None:
        extractor = create_feature_extractor(network, layers)
        graph = extractor.graph
        (output,) = (node for node in graph.nodes if node.op == "output")
        # The maps themselves, in place of a dictionary of them.
        output.args = (list(output.args[0].values()),)
        super().__init__(extractor, graph)
        load_weights(self, weights, imagenet.get_state_dict, type(network).__name__, unused)


class MobileNetV2(TorchvisionBackbone):
    """Maps after features 3, 6, 13 and 16 of MobileNet-V2.

    The last inverted residual block and the classifier are not built: the authors' code keeps them, but
    no output depends on them.
    """

    channels = (24, 32, 96, 160)

    def __init__(self, weights: str = "imagenet") -> None:
        layers = [f"features.{layer}" for layer in (3, 6, 13, 16)]
        imagenet = models.MobileNet_V2_Weights.IMAGENET1K_V2
        unused = ("features.17.", "features.18.", "classifier.")
        super().__init__(models.mobilenet_v2(), layers, weights, imagenet, unused)


class ResNet(TorchvisionBackbone):
    """Outputs of the four residual stages of a ResNet of `depth` layers."""

    channels = (256, 512, 1024, 2048)

    def __init__(self, depth: Literal[50, 101, 152] = 50, weights: str = "imagenet") -> None:
        if depth not in (50, 101, 152):
            raise PnfsError(f"backbone.depth={depth}: there are ResNets of depth 50, 101, 152")
        name, layers = f"resnet{depth}", [f"layer{stage}" for stage in (1, 2, 3, 4)]
        # The first weights of each: those that the public pose networks start from.
        imagenet = models.get_model_weights(name)["IMAGENET1K_V1"]
        super().__init__(models.get_model(name), layers, weights, imagenet, ("fc.",))


class TimmBackbone(Backbone):
    """The last map of each scale of a timm model, named as in `timm.list_models()`, such as "efficientnet_b0".

    Raises:
        PnfsError: timm has no such model, or it has no such pyramid.
    """

    def __init__(self, name: str, weights: str = "imagenet") -> None:
        super().__init__()
        if not timm.is_model(name):
            similar = timm.list_models(f"*{name.split('_')[0]}*")[:8]
            raise PnfsError(f"backbone.name={name}: timm has no such model; similar: {similar}")
        try:
            self.network: nn.Module = timm.create_model(name, features_only=True)
            info: Any = self.network.feature_info
            scales = info.reduction()
        except (RuntimeError, TypeError, NotImplementedError, AttributeError, ValueError) as error:
            raise PnfsError(f"backbone.name={name}: timm gives no maps of it ({error})") from error
        if not set(SCALES) <= set(scales):
            raise PnfsError(f"backbone.name={name}: strides {scales}; a backbone needs {SCALES}")
        # The last of each scale.
        self.levels = [len(scales) - 1 - scales[::-1].index(scale) for scale in SCALES]
        self.channels = tuple(info.channels()[level] for level in self.levels)
        if weights != "none":
            # timm leaves out what a model of feature maps misses, without a word: the whole one is strict.
            whole = timm.create_model(name)
            load_weights(whole, weights, partial(_timm_state, name), name)
            overlay = {"state_dict": whole.state_dict()}
            self.network = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True
            )

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Pyramid:
        maps = self.network(images)
        return [maps[level] for level in self.levels]


class HRNet(Backbone):
    """Parallel branches at 1/4 to 1/32, of W, 2W, 4W and 8W channels (timm's networks; K. Sun et al., 1902.09212).

    Width 16 is HRNet-W18-Small of the same authors, which has one module a stage.

    `last_stage` 3 ends with stage 3 and the convolution from 1/16 to 1/32 that opens stage 4's fourth branch
    (Table V, ours-a and ours-b), 4 is the whole network. `finest_only` makes the map at 1/4 of stage 4 alone.
    """

    def __init__(
        self,
        width: Literal[16, 32, 48] = 32,
        last_stage: Literal[3, 4] = 3,
        finest_only: bool = False,
        weights: str = "imagenet",
    ) -> None:
        super().__init__()
        if width not in (16, 32, 48):
            raise PnfsError(f"backbone.width={width}: there are HRNets of width 16, 32 and 48")
        if last_stage not in ((4,) if finest_only else (3, 4)):
            raise PnfsError("backbone.last_stage must be 3 or 4; finest_only needs last_stage=4")
        # The small one has modules of fewer blocks, and branches narrower than its published name says.
        name = "hrnet_w18_small" if width == 16 else f"hrnet_w{width}"
        self.network: Any = timm.create_model(name, features_only=True, feature_location="")
        unused = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")
        if last_stage == 3:
            self.network.add_module("stage4", nn.Identity())
            unused += ("stage4.",)
        elif finest_only:
            # Without what makes the last module's maps at 1/8, 1/16 and 1/32.
            last = self.network.stage4[-1]
            last.fuse_layers, last.multi_scale_output = last.fuse_layers[:1], False
            modules = len(self.network.stage4)
            unused += tuple(f"stage4.{modules - 1}.fuse_layers.{level}." for level in (1, 2, 3))
        count = 1 if finest_only else len(SCALES)
        self.channels = tuple(width * 2**level for level in range(count))
        load_weights(self.network, weights, partial(_timm_state, name), name, unused)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Pyramid:
        net = self.network
        x = net.act1(net.bn1(net.conv1(images)))
        return net.stages(net.act2(net.bn2(net.conv2(x))))


def _timm_state(name: str) -> Mapping[str, Tensor]:
    return timm.create_model(name, pretrained=True).state_dict()


class Stem(nn.Sequential):
    """Two stride-2 convolutions of 64 channels to 1/4, then a 1x1 convolution to a fabric of C = `channels`.

    `relu` says whether the first convolution is followed by one.
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
    """The first layers of a fabric of the part "backbone" on a stem (Fabric-1/2/3 of Fig. 5).

    There are no published `weights`.

    Raises:
        PnfsError: The last layer has fewer than four scales, so that there is no pyramid.
    """

    def __init__(self, *, stem: Stem, fabrics: NeuralFabrics, weights: str = "none") -> None:
        super().__init__()
        if weights != "none":
            raise PnfsError(f"backbone.weights={weights}: a fabric backbone has none; use none")
        if fabrics.part_names != ("backbone",):
            # Tables of alpha and beta are by part, and another one may have that name.
            raise PnfsError(f"backbone.fabrics.part_names={[*fabrics.part_names]}: must be [backbone]")
        theta = fabrics.theta
        if theta.output_scales != SCALES:
            last = f"layer {theta.last_layer} of {theta.layers} has scales {theta.output_scales}"
            raise PnfsError(f"{last}: keep 3 first_layers or more, and leave 3 or more in `layers`")
        self.stem, self.fabrics = stem, fabrics
        self.channels = tuple(theta.channels * scale for scale in SCALES)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Pyramid:
        outputs = self.fabrics({SCALES[0]: self.stem(images)})
        # A derived backbone lacks the scales that no part reads.
        return [outputs[s] if s in outputs else images.new_empty(0) for s in SCALES]


State = Mapping[str, Tensor]


def load_weights(
    module: nn.Module, weights: str, download: Callable[[], State], name: str, unused: tuple[str, ...] = ()
) -> None:
    """Loads what `backbone.weights` means for `name`: "imagenet" (`download()`), "none", or the path of a state
    dict; PnfsError where they cannot be had or do not fit."""
    if weights == "none":
        return
    if weights == "imagenet":
        try:
            state = download()
        except Exception as error:  # As many kinds as there are libraries that download.
            remedy = "name a file of them (backbone.weights=/path/to/it), or take backbone.weights=none"
            raise PnfsError(f"the ImageNet weights of {name} could not be had ({error}); {remedy}") from error
    else:
        state = read_file(weights)
    load_strictly(module, state, unused, f"backbone.weights: weights {weights} of {name}")


def read_file(path: str, key: str = "backbone.weights") -> Mapping[str, Tensor]:
    """The state dict in a file that the configuration's `key` names, read as plain data.

    A training checkpoint will do that holds it as "state_dict", "model_state_dict" or "model"; the prefix
    "module." that training on several GPUs leaves is taken off.

    Raises:
        PnfsError: The file is missing, unreadable or something else.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise PnfsError(f"{key}: {file} is no file; give imagenet, none, or a state dict's path")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = f"damaged, or with pickled objects, which are never loaded ({error})"
        raise PnfsError(f"{key}: {file} is not a readable state dict: {reason}") from error
    entries = content if isinstance(content, Mapping) else {}
    for state in (entries, *(entries.get(name) for name in ("state_dict", "model_state_dict", "model"))):
        pairs = state.items() if isinstance(state, Mapping) else ()
        if pairs and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in pairs):
            shared = all(name.startswith("module.") for name, _ in pairs)
            return {name.removeprefix("module.") if shared else name: value for name, value in pairs}
    raise PnfsError(f"{key}: {file} is no state dict, and holds none under state_dict or model")


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], unused: tuple[str, ...], where: str) -> None:
    """Loads `state`, but for entries below the prefixes in `unused`; `where` begins the messages.

    Counters of batches, which old files lack and nothing here reads, may be missing.

    Raises:
        PnfsError: Names or shapes do not fit; lists the first of them.
    """
    wanted = {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
    wanted |= {name: value for name, value in state.items() if not name.startswith(unused)}
    try:
        module.load_state_dict(wanted)
    except RuntimeError as error:
        problems = [f"{line.strip():.200}" for line in str(error).splitlines()[1:]]
        raise PnfsError(f"{where} do not fit: {'; '.join(problems[:5])}") from None

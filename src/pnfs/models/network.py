"""What every pose network offers, and the paper's: a backbone and P neural fabrics (Fig. 2)."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pnfs.body import PartMode, Skeleton, skeleton_by_name
from pnfs.errors import PnfsError
from pnfs.models.backbones import Backbone
from pnfs.models.fabric import NeuralFabrics
from pnfs.models.head import VectorHead
from pnfs.models.layers import Map, PartConv2d
from pnfs.models.wiring import SCALES

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

ChannelOrder = Literal["rgb", "bgr"]  # Order in a network's input; crops are RGB.
Stage = Literal["heatmaps", "vectors", "features"]  # What the forward pass returns.
Images = UInt8[Tensor, "B h w 3"] | Float[Tensor, "B 3 h w"]
"""RGB crops as loaders hand them over, or images that are normalised already; h and w divisible by 32."""


class PoseNetwork(nn.Module):
    """What every pose network is, ours or a baseline: `features(images)` and a `head` that makes heatmaps of them.

    `skeleton` names or describes the joints, `parts` are name -> joints (Table I; None: one part holds all). The
    heatmap of a joint that belongs to several parts is the sum (paper) or the mean of its maps: `overlap`.
    `channel_order` is "bgr" for weights trained on images as OpenCV reads them; as in the code that trained them,
    the first channel (then blue) is scaled by ImageNet's numbers for red.

    Attributes:
        stride: Input pixels for each pixel of a heatmap.
        map_joints: For each of the J part-joint maps, the skeleton's joint.
    """

    stride = 4
    map_joints: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor
    head: VectorHead

    def __init__(
        self,
        skeleton: str | Skeleton,
        parts: Mapping[str, Sequence[str]] | None = None,
        overlap: Literal["sum", "mean"] = "sum",
        channel_order: ChannelOrder = "rgb",
    ) -> None:
        super().__init__()
        if overlap not in ("sum", "mean") or channel_order not in ("rgb", "bgr"):
            raise PnfsError("model.overlap must be sum or mean, model.channel_order rgb or bgr")
        joints = skeleton_by_name(skeleton)
        self.parts = PartMode(joints, {"whole_body": joints.joints} if parts is None else parts)
        self.channel_order: ChannelOrder = channel_order
        self.overlap: Literal["sum", "mean"] = overlap
        mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], dtype=torch.float64) * 255
        indices = torch.tensor(self.parts.joint_indices)
        for name, value in (("map_joints", indices), ("pixel_mean", mean), ("pixel_std", std)):
            self.register_buffer(name, value, persistent=False)

    @abstractmethod
    def features(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B PC h/4 w/4"]:
        """What the head reads, part after part."""

    def forward(self, images: Images, until: Stage = "heatmaps") -> Float[Tensor, "B J h/4 w/4"]:
        """Heatmaps of all parts' joints, part after part, J = sum(J_p) >= K.

        Pixels are scaled by ImageNet's mean and standard deviation, colours brought to the network's order. With
        `until`, the raw "vectors" (B, J, d, h/4, w/4) behind the heatmaps, or the "features" that the head reads.
        """
        if images.dtype == torch.uint8:
            if self.channel_order == "bgr":
                images = images.flip(-1)
            # Not in half precision. The result is a view in channels-last memory.
            dtype = self.head.weight.dtype
            precise = images.to(torch.promote_types(dtype, torch.float32))
            mean, std = self.pixel_mean.to(precise), self.pixel_std.to(precise)
            images = ((precise - mean) / std).to(dtype).permute(0, 3, 1, 2)
        height, width = images.shape[-2:]
        if height % 32 or width % 32:
            raise PnfsError(f"input height and width must divide by 32, got {height}x{width}")
        features = self.features(images)
        return features if until == "features" else self.head(features, until == "vectors")

    def heatmaps(self, images: Images) -> Float[Tensor, "B K h/4 w/4"]:
        """Images to one heatmap a joint, in the skeleton's order."""
        return self.merged(self(images))

    def merged(self, part_maps: Float[Tensor, "B J h w"]) -> Float[Tensor, "B K h w"]:
        """One heatmap a joint, in the skeleton's order; `overlap` says what joins a joint's maps."""
        # Split, sums and stack: runtimes read these; index_add is exported as a scatter that not all do.
        joints: list[list[Tensor]] = [[] for _ in self.parts.skeleton.joints]
        for joint, part_map in zip(self.parts.joint_indices, part_maps.unbind(1), strict=True):
            joints[joint].append(part_map)  # (B, h, w)
        join = torch.mean if self.overlap == "mean" else torch.sum
        return torch.stack([join(torch.stack(own), 0) for own in joints], 1)

    @torch.no_grad()
    def calibrate(self, images: Images) -> None:
        """Brings the mean score on a first batch, in training mode, to the head's initial score."""
        was_training = self.training
        self.train()
        self.head.calibrate(self(images, "features"))
        self.train(was_training)

    def named_fabrics(self) -> dict[str, NeuralFabrics]:
        """All fabrics of the network by module name, also a backbone's; a baseline has none."""
        return {name: m for name, m in self.named_modules() if isinstance(m, NeuralFabrics)}

    def architecture_parameters(self) -> dict[str, nn.Parameter]:
        """alpha and beta of every part, such as "head/alpha"; a fabric backbone is a part of that name."""
        return {
            f"{part}/{name}": getattr(fabrics, name)[part]
            for fabrics in self.named_fabrics().values()
            for part in fabrics.part_names
            for name in ("alpha", "beta")
        }

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters that are not architecture parameters."""
        architecture = {id(parameter) for parameter in self.architecture_parameters().values()}
        return [p for p in self.parameters() if id(p) not in architecture]


class PoseFabricNetwork(PoseNetwork):
    """Part-aware neural fabrics on a backbone, a fabric's last layers for each part; see also `PoseNetwork`.

    Attributes:
        adapters: Scale -> 1x1 convolution through which the parts see the pyramid there.

    Raises:
        PnfsError: The fabrics are not those of the parts.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        fabrics: NeuralFabrics,
        skeleton: str,
        parts: Mapping[str, Sequence[str]],
        vector_dim: int = 8,
        overlap: Literal["sum", "mean"] = "sum",
        channel_order: ChannelOrder = "rgb",
    ) -> None:
        super().__init__(skeleton, parts, overlap, channel_order)
        if "backbone" in self.parts.names:
            raise PnfsError("no part can be named 'backbone': that is a fabric backbone's name")
        if fabrics.part_names != self.parts.names:
            raise PnfsError(f"model.fabrics has the parts {fabrics.part_names}, not model.parts")
        if fabrics.theta.output_scales != SCALES[:1]:
            raise PnfsError("model.fabrics must end with the last layer, the single cell at 1/4")
        self.backbone = backbone
        self.adapters = nn.ModuleDict()
        wanted = [fabrics.theta.channels * scale for scale in SCALES]
        # In channels that the fabrics have already, one variant reads the pyramid itself.
        reads_itself = fabrics.rules.adapters == "where_needed" and wanted == [*backbone.channels]
        for scale, have, want in zip(SCALES, backbone.channels, wanted, strict=True):
            if scale in fabrics.readers and not reads_itself:
                # One convolution serves all parts, since all of them read the same map.
                count = len(fabrics.readers[scale])
                self.adapters[str(scale)] = PartConv2d(1, have, count * want, 1, bias=True)
        self.fabrics = fabrics
        self.head = VectorHead(wanted[0], self.parts.joint_counts, vector_dim)
        self.to(memory_format=torch.channels_last)

    def features(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B PC h/4 w/4"]:
        """The fabrics' last cells, part after part."""
        maps: dict[int, Map] = {}
        for scale, x in zip(SCALES, self.backbone(images), strict=True):
            if str(scale) in self.adapters:
                maps[scale] = self.adapters[str(scale)](x)
            elif scale in self.fabrics.readers:
                count = len(self.fabrics.readers[scale])
                maps[scale] = x.repeat(1, count, 1, 1) if count > 1 else x
        return self.fabrics(maps)[SCALES[0]]

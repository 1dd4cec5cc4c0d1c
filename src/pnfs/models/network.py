"""What every pose network offers, and the paper's: a backbone and P neural fabrics (Fig. 2)."""

import copy
from abc import abstractmethod
from collections.abc import Container, Mapping, Sequence
from functools import cache
from typing import Literal, Self, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pnfs.body import PartMode, skeleton_by_name
from pnfs.models.backbones import Backbone
from pnfs.models.fabric import PAPER, FabricRules
from pnfs.models.fabrics import NeuralFabrics
from pnfs.models.fuse import FusedCell, skip_adapters
from pnfs.models.head import VectorHead
from pnfs.models.layers import Map, PartConv2d
from pnfs.models.operations import SUBNETWORK_OPERATIONS, Operations
from pnfs.models.wiring import SCALES, KeptCells

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ChannelOrder = Literal["rgb", "bgr"]
"""The colours' order in a network's input; crops always come as RGB."""


def normalise_images(
    images: UInt8[Tensor, "B h w 3"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "B 3 h w"]:
    """Crops as loaders hand them over to the network's input, on the crops' device.

    Pixels are scaled by ImageNet's mean and standard deviation. The result is a view in channels-last
    memory.
    """
    # What is made while a graph is traced belongs to that graph and must not be kept.
    tracing = torch.compiler.is_compiling()
    statistics = _make_pixel_statistics if tracing else _pixel_statistics
    precision = torch.promote_types(dtype, torch.float32)
    mean, std = statistics(images.device, precision)
    return ((images.to(precision) - mean) / std).to(dtype).permute(0, 3, 1, 2)


def _make_pixel_statistics(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor(IMAGENET_MEAN, dtype=dtype), torch.tensor(IMAGENET_STD, dtype=dtype)
    return mean.to(device) * 255, std.to(device) * 255


@cache
def _pixel_statistics(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    # Made once for each device: a copy to a GPU would make every step wait for the one before.
    return _make_pixel_statistics(device, dtype)


class PoseNetwork(nn.Module):
    """What training, evaluation, cost and export need of a pose network, ours or a baseline.

    A network is `features(images)` and a `head` that makes vectors of them.

    Args:
        parts: The grouping of the joints; a baseline has one part that holds all of them.
        overlap: The map of a joint that belongs to several parts is the "sum" (paper) or the "mean" of
            its maps.
        channel_order: "bgr" for weights trained on images as OpenCV reads them. As in the code that trained
            them, the first channel (then blue) is scaled by ImageNet's numbers for red.

    Attributes:
        stride: Input pixels for each pixel of a score map.
        map_joints: For each of the J part-joint maps, the skeleton's joint.
        head: Features to vectors, vectors to scores.
    """

    stride = 4
    map_joints: Tensor
    head: VectorHead

    def __init__(
        self,
        parts: PartMode,
        overlap: Literal["sum", "mean"] = "sum",
        channel_order: ChannelOrder = "rgb",
    ) -> None:
        super().__init__()
        if overlap not in ("sum", "mean"):
            raise ValueError(f"model.overlap must be sum or mean, got {overlap!r}")
        if channel_order not in get_args(ChannelOrder):
            raise ValueError(f"model.channel_order must be rgb or bgr, got {channel_order!r}")
        self.channel_order: ChannelOrder = channel_order
        self.parts = parts
        self.overlap: Literal["sum", "mean"] = overlap
        # A plain index, not a parameter.
        self.register_buffer("map_joints", torch.tensor(parts.joint_indices), persistent=False)

    @abstractmethod
    def features(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B PC h/4 w/4"]:
        """What the head reads: the features of all parts, part after part."""

    def vectors(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B J d h/4 w/4"]:
        """Raw vectors of all parts' joints, part after part, J = sum(J_p)."""
        return self.head(self.features(images))

    def normalise(
        self, images: UInt8[Tensor, "B h w 3"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "B 3 h w"]:
        """RGB crops to the network's input, colours in the network's order; see `normalise_images`."""
        if self.channel_order == "bgr":
            images = images.flip(-1)
        return normalise_images(images, dtype)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B J h/4 w/4"]:
        """Score maps of all parts' joints, part after part, J = sum(J_p) >= K.

        Args:
            images: Normalised images (`normalise`); h and w divisible by 32.
        """
        height, width = images.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(f"input height and width must divide by 32, got {height}x{width}")
        return self.head.scores(self.vectors(images))

    @torch.no_grad()
    def calibrate(self, images: Float[Tensor, "B 3 h w"]) -> None:
        """Brings the mean score on a first batch to the head's initial score, before training starts.

        Runs in training mode, as the first step will, and leaves the mode as it was.
        """
        was_training = self.training
        self.train()
        self.head.calibrate(self.features(images))
        self.train(was_training)

    def fused(self) -> Self:
        """A copy for inference with equal outputs and fewer operations; see `pnfs.models.fuse`.

        Batch norms with nothing but a convolution in front of them are left to the runtimes, which fuse them too.
        """
        return copy.deepcopy(self).eval().requires_grad_(False)

    def joint_maps(self, part_maps: Float[Tensor, "B J h w"]) -> Float[Tensor, "B K h w"]:
        """One map a joint, in the skeleton's order; `overlap` says what joins a joint's maps."""
        batch, _, height, width = part_maps.shape
        out = part_maps.new_zeros(batch, len(self.parts.skeleton), height, width)
        out = out.index_add(1, self.map_joints, part_maps)
        if self.overlap == "mean":
            count = torch.bincount(self.map_joints, minlength=out.shape[1])
            out = out / count.to(out.dtype)[:, None, None]
        return out

    def crops_to_maps(self, images: UInt8[Tensor, "B h w 3"]) -> Float[Tensor, "B K h/4 w/4"]:
        """RGB crops to one map a joint: `normalise`, the network in its weights' precision, `joint_maps`."""
        return self.joint_maps(self(self.normalise(images, next(self.parameters()).dtype)))

    def named_fabrics(self) -> dict[str, NeuralFabrics]:
        """All fabrics of the network by module name, also a backbone's; a baseline has none."""
        return {
            name: module
            for name, module in self.named_modules()
            if isinstance(module, NeuralFabrics)
        }

    def architecture_parameters(self) -> dict[str, nn.Parameter]:
        """alpha and beta of every part, such as "head/alpha"; a fabric backbone is a part of that name."""
        found = {}
        for fabrics in self.named_fabrics().values():
            for part in fabrics.part_names:
                found[f"{part}/alpha"] = fabrics.alpha[part]
                found[f"{part}/beta"] = fabrics.beta[part]
        return found

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters that are not architecture parameters."""
        architecture = {id(parameter) for parameter in self.architecture_parameters().values()}
        return [p for p in self.parameters() if id(p) not in architecture]


class Adapters(nn.ModuleDict):
    """The pyramid as each part sees it, through 1x1 convolutions of its own.

    Args:
        pyramid_channels: Channels of the backbone's maps at 1/4, 1/8, 1/16, 1/32.
        channels: C.
        readers: Scale -> the parts that read it.
        where_needed: None at all where the pyramid has the fabrics' channels already.
    """

    def __init__(
        self,
        pyramid_channels: Sequence[int],
        channels: int,
        readers: Mapping[int, Sequence[str]],
        where_needed: bool,
    ) -> None:
        super().__init__()
        self.direct = False
        self.readers = {scale: len(parts) for scale, parts in readers.items()}
        wanted = [channels * scale for scale in SCALES]
        for scale, have, want in zip(SCALES, pyramid_channels, wanted, strict=True):
            if scale in readers and not (where_needed and list(pyramid_channels) == wanted):
                # One convolution serves all parts, since all of them read the same map.
                self[str(scale)] = PartConv2d(1, have, self.readers[scale] * want, 1, bias=True)

    def forward(self, pyramid: Sequence[Float[Tensor, "B C_s h_s w_s"]]) -> dict[int, Map]:
        """The pyramid, 1/4 first, to scale -> (B, p*C*s, h/s, w/s) of the p parts that read it."""
        unchanged = zip(SCALES, pyramid, strict=True) if self.direct else ()
        return {-scale: x for scale, x in unchanged} | {
            scale: self[str(scale)](x)
            if str(scale) in self
            else x.repeat(1, self.readers[scale], 1, 1)
            for scale, x in zip(SCALES, pyramid, strict=True)
            if scale in self.readers
        }

    def fuse(self, cells: Sequence[FusedCell], scales: Container[int]) -> None:
        """Prepares the adapters for inference, for good; see `skip_adapters`.

        Args:
            cells: The cells that read what the adapters make; none where parts differ.
            scales: What is read.
        """
        self.direct = bool(cells)
        needed = skip_adapters(cells, dict(self.items())) if cells else scales
        for scale in [scale for scale in self.readers if scale not in needed]:
            del self.readers[scale]
            if str(scale) in self:
                del self[str(scale)]


class PoseFabricNetwork(PoseNetwork):
    """Part-aware neural fabrics on a backbone: backbone, adapters, fabrics, head.

    Args:
        backbone: Feature pyramid.
        skeleton: Name of the skeleton whose joints are predicted.
        parts: Part name -> joint names (Table I).
        layers: L of the whole fabric.
        subnetwork_layers: n, how many last layers the subnetworks keep.
        channels: C.
        nodes: H.
        operations: Candidate operations O.
        alpha_per_cell: One alpha a cell in place of one a fabric.
        rules: Paper or reference behaviour.
        vector_dim: d.
        overlap: How the maps of a joint in several parts are joined; see `PoseNetwork`.
        channel_order: Order of the input's colours; see `PoseNetwork`.
        kept: In a derived network, what is left of each part's fabric; see `pnfs derive`.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        skeleton: str,
        parts: Mapping[str, Sequence[str]],
        layers: int = 6,
        subnetwork_layers: int = 3,
        channels: int = 10,
        nodes: int = 1,
        operations: Operations = SUBNETWORK_OPERATIONS,
        alpha_per_cell: bool = False,
        rules: FabricRules = PAPER,
        vector_dim: int = 8,
        overlap: Literal["sum", "mean"] = "sum",
        channel_order: ChannelOrder = "rgb",
        kept: Mapping[str, KeptCells] | None = None,
    ) -> None:
        super().__init__(PartMode(skeleton_by_name(skeleton), parts), overlap, channel_order)
        if "backbone" in self.parts.names:
            raise ValueError("no part can be named 'backbone': that is a fabric backbone's name")
        if not 1 <= subnetwork_layers <= layers:
            raise ValueError(f"subnetwork_layers={subnetwork_layers} is not within 1 to {layers}")
        fabrics = NeuralFabrics(
            part_names=self.parts.names,
            layers=layers,
            first_layer=layers - subnetwork_layers + 1,
            channels=channels,
            nodes=nodes,
            operations=operations,
            alpha_per_cell=alpha_per_cell,
            rules=rules,
            kept=kept,
        )
        where_needed = rules.adapters == "where_needed"
        self.backbone = backbone
        self.adapters = Adapters(backbone.channels, channels, fabrics.readers, where_needed)
        self.fabrics = fabrics
        self.head = VectorHead(SCALES[0] * channels, self.parts.joint_counts, vector_dim)
        self.to(memory_format=torch.channels_last)

    def features(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B PC h/4 w/4"]:
        """The fabrics' last cells, part after part."""
        return self.fabrics(self.adapters(self.backbone(images)))[SCALES[0]]

    @torch.no_grad()
    def fused(self) -> Self:
        """A copy for inference with equal outputs and fewer operations; see `pnfs.models.fuse`."""
        network = super().fused()
        fabrics = network.fabrics
        fabrics.fuse(SCALES[:1])
        network.backbone.fuse(list(fabrics.readers))
        network.adapters.fuse(fabrics.first_cells(), list(fabrics.readers))
        return network

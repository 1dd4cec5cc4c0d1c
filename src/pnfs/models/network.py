"""What every pose network offers, and the paper's: a backbone and P part subnetworks (Fig. 2)."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pnfs.body import PartMode, skeleton_by_name
from pnfs.models.backbones import Backbone
from pnfs.models.fabric import PAPER, SCALES, FabricRules, Kept, NeuralFabrics
from pnfs.models.lanes import Form
from pnfs.models.operations import SUBNETWORK_OPERATIONS, OperationFactory
from pnfs.models.subnetworks import PartSubnetworks

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


@dataclass(frozen=True)
class Stage:
    """One step on the way from images to vectors.

    Attributes:
        name: What a cost table calls it.
        module: Holds the step's parameters.
        run: The step: takes what the step before returned, images first.
    """

    name: str
    module: nn.Module
    run: Callable[[Any], Any]


class PoseNetwork(nn.Module):
    """What training, evaluation, cost and export need of a pose network, ours or a baseline.

    Args:
        parts: The grouping of the joints; a baseline has one part that holds all of them.
        overlap: The map of a joint that belongs to several parts is the "sum" (paper) or the "mean" of
            its maps.
        channel_order: "bgr" for weights trained on images as OpenCV reads them. As in the code that trained
            them, the first channel (then blue) is scaled by ImageNet's numbers for red.

    Attributes:
        stride: Input pixels for each pixel of a score map.
        map_joints: For each of the J part-joint maps, the skeleton's joint.
    """

    stride = 4
    map_joints: Tensor

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
    def vectors(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B J d h/4 w/4"]:
        """Raw vectors of all parts' joints, part after part, J = sum(J_p)."""

    @abstractmethod
    def scores(self, vectors: Float[Tensor, "B J d h w"]) -> Float[Tensor, "B J h w"]:
        """Squashed lengths of the vectors; for d = 1 the number itself."""

    @abstractmethod
    def stages(self) -> list[Stage]:
        """The steps from images to vectors, in order; together they hold every parameter once."""

    @abstractmethod
    def calibrate(self, images: Float[Tensor, "B 3 h w"]) -> None:
        """Brings the mean score on a first batch to the head's initial score, before training starts.

        Runs in training mode, as the first step will, and leaves the mode as it was.
        """

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
        return self.scores(self.vectors(images))

    def joint_maps(self, part_maps: Float[Tensor, "B J h w"]) -> Float[Tensor, "B K h w"]:
        """One map a joint, in the skeleton's order; `overlap` says what joins a joint's maps."""
        batch, _, height, width = part_maps.shape
        out = part_maps.new_zeros(batch, len(self.parts.skeleton), height, width)
        out = out.index_add(1, self.map_joints, part_maps)
        if self.overlap == "mean":
            count = torch.bincount(self.map_joints, minlength=out.shape[1])
            out = out / count.to(out.dtype)[:, None, None]
        return out

    def fabrics(self) -> dict[str, NeuralFabrics]:
        """All fabrics of the model, also a backbone's; a baseline has none."""
        return {
            name: module
            for name, module in self.named_modules()
            if isinstance(module, NeuralFabrics)
        }

    def architecture_parameters(self) -> dict[str, nn.Parameter]:
        """alpha and beta of every part, such as "head/alpha"; a fabric backbone is a part of that name."""
        found = {}
        for fabrics in self.fabrics().values():
            for part in fabrics.part_names:
                found[f"{part}/alpha"] = fabrics.alpha[part]
                found[f"{part}/beta"] = fabrics.beta[part]
        return found

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters that are not architecture parameters."""
        architecture = {id(parameter) for parameter in self.architecture_parameters().values()}
        return [p for p in self.parameters() if id(p) not in architecture]


class PoseFabricNetwork(PoseNetwork):
    """Part-aware neural fabrics on a backbone.

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
        channel_order: Of the input's colours; see `PoseNetwork`.
        form: How the parts run.
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
        operations: Mapping[str, OperationFactory] = SUBNETWORK_OPERATIONS,
        alpha_per_cell: bool = False,
        rules: FabricRules = PAPER,
        vector_dim: int = 8,
        overlap: Literal["sum", "mean"] = "sum",
        channel_order: ChannelOrder = "rgb",
        form: Form | Literal["auto"] = "auto",
        kept: Kept | None = None,
    ) -> None:
        super().__init__(PartMode(skeleton_by_name(skeleton), parts), overlap, channel_order)
        if "backbone" in self.parts.names:
            raise ValueError("no part can be named 'backbone': that is a fabric backbone's name")
        self.backbone = backbone
        self.subnetworks = PartSubnetworks(
            parts=self.parts,
            pyramid_channels=backbone.channels,
            layers=layers,
            subnetwork_layers=subnetwork_layers,
            channels=channels,
            nodes=nodes,
            operations=operations,
            alpha_per_cell=alpha_per_cell,
            rules=rules,
            vector_dim=vector_dim,
            form=form,
            kept=kept,
        )
        self.to(memory_format=torch.channels_last)

    def vectors(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B J d h/4 w/4"]:
        """Raw vectors of all parts' joints, part after part, J = sum(J_p)."""
        return self.subnetworks(self.backbone(images))

    def scores(self, vectors: Float[Tensor, "B J d h w"]) -> Float[Tensor, "B J h w"]:
        """Squashed lengths of the vectors; for d = 1 the number itself."""
        return self.subnetworks.head.scores(vectors)

    def stages(self) -> list[Stage]:
        """Backbone, adapters, fabrics, head."""
        subnetworks = self.subnetworks
        # Every form multiplies alike; parts of different shapes cannot be grouped.
        form: Form = "grouped" if subnetworks.fabrics.kept is None else "loop"
        finest = SCALES[0]
        return [
            Stage("backbone", self.backbone, self.backbone),
            Stage("adapters", subnetworks.adapters, lambda maps: subnetworks.adapt(maps, form)),
            Stage("fabrics", subnetworks.fabrics, lambda maps: subnetworks.fabrics(maps, form)),
            Stage("head", subnetworks.head, lambda maps: subnetworks.head(maps[finest])),
        ]

    @torch.no_grad()
    def calibrate(self, images: Float[Tensor, "B 3 h w"]) -> None:
        """Brings the mean score on a first batch to the head's initial score, before training starts.

        Runs in training mode, as the first step will, and leaves the mode as it was.
        """
        was_training = self.training
        self.train()
        self.subnetworks.calibrate(self.backbone(images))
        self.train(was_training)

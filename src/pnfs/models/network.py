"""The whole model: a backbone and P part subnetworks (Fig. 2)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pnfs.body import PartMode, skeleton_by_name
from pnfs.models.backbones import Backbone
from pnfs.models.fabric import PAPER, FabricRules, Kept, NeuralFabrics
from pnfs.models.lanes import Form
from pnfs.models.operations import SUBNETWORK_OPERATIONS, OperationFactory
from pnfs.models.subnetworks import PartSubnetworks

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise_images(
    images: UInt8[Tensor, "B h w 3"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "B 3 h w"]:
    """Crops as loaders hand them over to the network's input, on the crops' device.

    Pixels are scaled by ImageNet's mean and standard deviation. The result is a view in channels-last
    memory.
    """
    mean = torch.tensor(_IMAGENET_MEAN, device=images.device) * 255
    std = torch.tensor(_IMAGENET_STD, device=images.device) * 255
    return ((images.float() - mean) / std).to(dtype).permute(0, 3, 1, 2)


class PoseFabricNetwork(nn.Module):
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
        form: How the parts run.
        kept: In a derived network, what is left of each part's fabric; see `pnfs derive`.

    Attributes:
        stride: Input pixels for each pixel of a score map.
    """

    stride = 4

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
        form: Form | Literal["auto"] = "auto",
        kept: Kept | None = None,
    ) -> None:
        super().__init__()
        self.parts = PartMode(skeleton_by_name(skeleton), parts)
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
        # A plain index, not a parameter: which joint each part-joint map shows.
        self.register_buffer("map_joints", torch.tensor(self.parts.joint_indices), persistent=False)
        self.to(memory_format=torch.channels_last)

    map_joints: Tensor

    def vectors(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B J d h/4 w/4"]:
        """Raw vectors of all parts' joints, part after part, J = sum(J_p)."""
        return self.subnetworks(self.backbone(images))

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B J h/4 w/4"]:
        """Score maps of all parts' joints, part after part, J = sum(J_p) >= K.

        Args:
            images: Normalised images; h and w divisible by 32.
        """
        height, width = images.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(f"input height and width must divide by 32, got {height}x{width}")
        return self.subnetworks.head.scores(self.vectors(images))

    def joint_maps(self, part_maps: Float[Tensor, "B J h w"]) -> Float[Tensor, "B K h w"]:
        """One map a joint, in the skeleton's order; a joint in several parts gets the sum of its maps."""
        batch, _, height, width = part_maps.shape
        out = part_maps.new_zeros(batch, len(self.parts.skeleton), height, width)
        return out.index_add(1, self.map_joints, part_maps)

    @torch.no_grad()
    def calibrate(self, images: Float[Tensor, "B 3 h w"]) -> None:
        """Brings the mean score on a first batch to the head's initial score, before training starts.

        Runs in training mode, as the first step will, and leaves the mode as it was.
        """
        was_training = self.training
        self.train()
        self.subnetworks.calibrate(self.backbone(images))
        self.train(was_training)

    def fabrics(self) -> dict[str, NeuralFabrics]:
        """All fabrics of the model: the subnetworks', and the backbone's where it is a fabric."""
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

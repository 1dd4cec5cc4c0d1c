"""Public weights of whole pose networks, brought to this package's names and joint order."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pnfs.body import Skeleton
from pnfs.errors import PnfsError
from pnfs.models import PoseNetwork
from pnfs.models.backbones import load_strictly

PublicKind = Literal["hrnet", "simple_baseline"]

_BLOCKS: Mapping[int, tuple[int, ...]] = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Bottleneck blocks of the four stages of a ResNet of each depth."""

# Beginnings of public names, and of ours: timm and torchvision keep the public names below the backbone.
_NAMES: Mapping[PublicKind, Mapping[str, str]] = {
    "hrnet": {"": "backbone.network.", "final_layer.": "head."},
    "simple_baseline": {"": "backbone.", "deconv_layers.": "upsampling.", "final_layer.": "head."},
}
_LAST = "final_layer.weight"
# The public code keeps the order of the dataset's files; ours for MPII is the paper's.
_PUBLIC_JOINTS: Mapping[str, Sequence[str]] = {
    "mpii": (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "pelvis", "thorax", "upper_neck", "head_top",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PublicNetwork:
    """What the entries of a public pose checkpoint say about its network."""

    kind: PublicKind
    size: int
    """Width of an HRNet, depth of a SimpleBaseline's ResNet."""
    filters: int
    """Channels of the map that the last layer reads."""
    joints: int
    """Maps that it makes."""


def describe_public(state: Mapping[str, Tensor]) -> PublicNetwork | None:
    """The network that a state dict of the public HRNet or SimpleBaseline code belongs to.

    Returns:
        None for another state dict.

    Raises:
        ValueError: It is one of theirs, but of a size or with a last layer that cannot be built here.
    """
    if _LAST not in state or state[_LAST].ndim != 4:
        return None
    joints, filters, *kernel = state[_LAST].shape
    if kernel != [1, 1]:
        raise PnfsError(
            f"{_LAST} is a {kernel[0]}x{kernel[1]} convolution; only 1x1 (FINAL_CONV_KERNEL: 1) can be built"
        )
    if any(name.startswith("stage4.") for name in state):
        first = state.get("transition1.0.0.weight")
        width = 0 if first is None or first.ndim != 4 else len(first)
        if width not in (32, 48):
            raise PnfsError(f"an HRNet of width {width}; there are widths 32 and 48")
        return PublicNetwork("hrnet", width, filters, joints)
    if any(name.startswith("deconv_layers.") for name in state):
        return PublicNetwork("simple_baseline", resnet_depth(state), filters, joints)
    return None


def public_state_dict(
    state: Mapping[str, Tensor], kind: PublicKind, skeleton: Skeleton
) -> dict[str, Tensor]:
    """A public state dict, without the prefix "module.", in this package's names and joint order."""
    public = _PUBLIC_JOINTS.get(skeleton.name, skeleton.joints)
    order = torch.tensor([public.index(joint) for joint in skeleton.joints])
    renamed = {}
    for name, value in state.items():
        beginning = max((b for b in _NAMES[kind] if name.startswith(b)), key=len)
        last = beginning == "final_layer." and value.shape[:1] == order.shape
        ours = _NAMES[kind][beginning] + name.removeprefix(beginning)
        renamed[ours] = value[order] if last else value
    return renamed


def load_public_state(network: PoseNetwork, state: Mapping[str, Tensor], kind: PublicKind) -> None:
    """Loads a public state dict into a baseline with a scalar head (d = 1), as the public ones have.

    The network's `channel_order` must be that of the images which the weights were trained on.

    Raises:
        PnfsError: The state dict does not fit; lists the first mismatches.
    """
    ours = public_state_dict(state, kind, network.parts.skeleton)
    load_strictly(network, ours, (), "its weights")


def resnet_depth(state: Mapping[str, Tensor], prefix: str = "") -> int:
    """The depth of the ResNet whose entries, named as torchvision names them, stand below a prefix.

    Raises:
        PnfsError: None of the depths that are built here.
    """
    pattern = re.compile(re.escape(prefix) + r"layer(\d)\.(\d+)\.conv3\.weight")
    found = [match for match in map(pattern.fullmatch, state) if match]
    counts = tuple(sum(match[1] == str(stage) for match in found) for stage in (1, 2, 3, 4))
    for depth, blocks in _BLOCKS.items():
        if counts == blocks:
            return depth
    raise PnfsError(
        f"a ResNet whose stages have {', '.join(map(str, counts))} bottleneck blocks; there are depths "
        "50, 101 and 152"
    )

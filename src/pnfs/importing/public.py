"""Public weights of whole pose networks, brought to this package's names and joint order."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pnfs.errors import PnfsError
from pnfs.models import PoseNetwork
from pnfs.models.backbones import load_strictly

PublicKind = Literal["hrnet", "simple_baseline"]

# Bottleneck blocks of the four stages of a ResNet -> its depth.
_DEPTHS: Mapping[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}

# Beginnings of public names, and of ours: timm and torchvision keep the public names below the backbone.
_NAMES: Mapping[PublicKind, Mapping[str, str]] = {
    "hrnet": {"final_layer.": "head.", "": "backbone.network."},
    "simple_baseline": {"final_layer.": "head.", "deconv_layers.": "upsampling.", "": "backbone."},
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


class PublicNetwork(NamedTuple):
    """What the entries of a public pose checkpoint say about its network."""

    kind: PublicKind
    size: int  # Width of an HRNet, depth of a SimpleBaseline's ResNet.
    filters: int  # Channels of the map that the last layer reads.
    joints: int  # Maps that it makes.


def describe_public(state: Mapping[str, Tensor]) -> PublicNetwork | None:
    """The network that a state dict of the public HRNet or SimpleBaseline code belongs to; None for another one.

    Raises PnfsError if it is one of theirs, but of a size or with a last layer that cannot be built here.
    """
    is_hrnet = any(name.startswith("stage4.") for name in state)
    is_baseline = any(name.startswith("deconv_layers.") for name in state)
    if _LAST not in state or state[_LAST].ndim != 4 or not (is_hrnet or is_baseline):
        return None
    joints, filters, *kernel = state[_LAST].shape
    if kernel != [1, 1]:
        raise PnfsError(
            f"{_LAST} is a {kernel[0]}x{kernel[1]} convolution; only 1x1 (FINAL_CONV_KERNEL: 1) can be built"
        )
    if not is_hrnet:
        return PublicNetwork("simple_baseline", resnet_depth(state), filters, joints)
    first = state.get("transition1.0.0.weight")
    width = 0 if first is None or first.ndim != 4 else len(first)
    if width not in (32, 48):
        raise PnfsError(f"an HRNet of width {width}; there are widths 32 and 48")
    return PublicNetwork("hrnet", width, filters, joints)


def load_public_state(network: PoseNetwork, state: Mapping[str, Tensor], kind: PublicKind) -> None:
    """Loads a public state dict, without the prefix "module.", into a baseline with a scalar head (d = 1), as the
    public ones have.

    The network's `channel_order` must be that of the images which the weights were trained on. Raises PnfsError if
    the state dict does not fit; lists the first mismatches.
    """
    skeleton = network.parts.skeleton
    public = _PUBLIC_JOINTS.get(skeleton.name, skeleton.joints)
    order = torch.tensor([public.index(joint) for joint in skeleton.joints])
    ours = {}
    for name, value in state.items():
        beginning = next(b for b in _NAMES[kind] if name.startswith(b))
        last = beginning == "final_layer." and value.shape[:1] == order.shape
        renamed = _NAMES[kind][beginning] + name.removeprefix(beginning)
        ours[renamed] = value[order] if last else value
    load_strictly(network, ours, (), "its weights")


def resnet_depth(state: Mapping[str, Tensor], prefix: str = "") -> int:
    """The depth of the ResNet whose entries, named as torchvision names them, stand below a prefix.

    Raises PnfsError if it is none of the depths that are built here.
    """
    pattern = re.compile(re.escape(prefix) + r"layer(\d)\.(\d+)\.conv3\.weight")
    stages = [match[1] for match in map(pattern.fullmatch, state) if match]
    counts = tuple(stages.count(stage) for stage in "1234")
    if counts not in _DEPTHS:
        raise PnfsError(
            f"a ResNet whose stages have {', '.join(map(str, counts))} bottleneck blocks; there are depths "
            "50, 101 and 152"
        )
    return _DEPTHS[counts]

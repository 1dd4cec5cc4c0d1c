"""Public weights of whole pose networks, brought to this package's names and joint order."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pnfs.models.backbones.pyramid import load_part_of, read_file
from pnfs.models.baselines.baseline import Baseline
from pnfs.models.network import IMAGENET_MEAN, IMAGENET_STD

KEY = "model.weights"
"""The configuration key that names the file."""

_HEAD = "final_layer."
_FIRST_CONVOLUTION, _FIRST_MEAN = "conv1.weight", "bn1.running_mean"
# The public code keeps the order of the dataset's files; ours for MPII is the paper's.
_PUBLIC_JOINTS: Mapping[str, Sequence[str]] = {
    "mpii": (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "pelvis", "thorax", "upper_neck", "head_top",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    ),
}  # fmt: skip


def load_public(network: Baseline, path: str, names: Mapping[str, str], bgr: bool = False) -> None:
    """Loads a pose checkpoint of the public SimpleBaseline or HRNet code.

    Args:
        network: A baseline with a scalar head (d = 1), as the public ones have.
        path: State dict, or training checkpoint with one.
        names: Beginnings of public names -> beginnings of this network's; the longest that fits
            is replaced.
        bgr: The network was trained on images in the order blue, green, red.

    Raises:
        ValueError: The file is unreadable or does not fit; lists the first mismatches.
    """
    if network.head.vector_dim != 1:
        raise ValueError(
            f"{KEY}: public pose networks have scalar heads; use model.vector_dim=1, or start "
            "from ImageNet weights with backbone.weights"
        )
    state = dict(read_file(path, KEY))
    if bgr and {_FIRST_CONVOLUTION, _FIRST_MEAN} <= set(state):
        weight, mean = _to_rgb(state[_FIRST_CONVOLUTION], state[_FIRST_MEAN])
        state |= {_FIRST_CONVOLUTION: weight, _FIRST_MEAN: mean}
    joints = network.parts.skeleton.joints
    public = _PUBLIC_JOINTS.get(network.parts.skeleton.name, joints)
    order = torch.tensor([public.index(joint) for joint in joints])
    renamed = {}
    for name, value in state.items():
        if name.startswith(_HEAD):
            renamed[name.replace(_HEAD, "head.", 1)] = (
                value[order] if len(value) == len(order) else value
            )
        else:
            renamed[_renamed(name, names)] = value
    load_part_of(network, renamed, (), f"weights {path}", KEY)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    fitting = [beginning for beginning in names if name.startswith(beginning)]
    longest = max(fitting, key=len)
    return names[longest] + name.removeprefix(longest)


def _to_rgb(weight: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """A first convolution on BGR images as one on RGB images, and the mean that follows it.

    The public code scales blue by red's statistics and red by blue's. The scale goes into the weights, the
    shift into the running mean; only in the padding at the border do the two differ, by that shift.
    """
    mine, my_std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    theirs, their_std = mine.flip(0), my_std.flip(0)
    shift = (mine - theirs) / their_std
    weight = weight.flip(1)
    bias = (weight * shift[:, None, None]).sum((1, 2, 3))
    return weight * (my_std / their_std)[:, None, None], mean - bias

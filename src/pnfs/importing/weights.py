"""Public state dicts loaded into our models: of the authors' code (PoseNFS), of HRNet and of SimpleBaseline."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pnfs.body import MPII
from pnfs.errors import PnfsError
from pnfs.models import PoseFabricNetwork, PoseNetwork
from pnfs.models.backbones import load_strictly
from pnfs.models.wiring import NEIGHBOURS, SCALES

# --- PoseNFS: a module a part (`<part>.cell_<layer>_<scale>...`), where ours stacks the parts

# Their three candidates are parallel, above (finer), below (coarser).
_CONNECTION: Mapping[str, int] = {"same": 0, "finer": 1, "coarser": 2}

OPERATION_NAMES: Mapping[str, str] = {
    **{"Zero": "zero", "skip_connect": "skip", "avg_pool_3x3": "avg_pool_3x3", "max_pool_3x3": "max_pool_3x3"},
    **{f"Sep_Conv_{size}": f"sep_conv_{size}" for size in ("3x3", "5x5")},
    **{f"Atr_Conv_{size}": f"dil_conv_{size}" for size in ("3x3", "5x5")},
}
"""Their names of the candidate operations, and ours."""

_STEM = {"conv1": 0, "norm1": 1, "conv2": 2, "norm2": 3, "project": 5}
# In their sequence a repeat is depthwise, pointwise, BN, ReLU.
_SEPARABLE = {"depthwise": 0, "pointwise": 1, "norm": 2}
_COUNTER = "num_batches_tracked"


def load_posenfs_state_dict(
    network: PoseFabricNetwork,
    state: Mapping[str, Tensor],
    parts: Sequence[str],
    operators: Sequence[str],
    backbone_operators: Sequence[str] = (),
) -> list[str]:
    """Copies a state dict of the public implementation into `network`, and names the entries that no output
    depends on.

    The network is built with the same Theta, part mode, operations and `rules=POSENFS`; entries of `state` lack
    the prefix "module."; `parts` are in the order of their construction, operators in that of alpha's columns.

    Raises PnfsError if an entry is missing, has another shape, or is known to no module of ours.
    """
    own, found, taken = network.state_dict(), {}, set()
    for name, wanted in own.items():
        if name.endswith(_COUNTER):
            found[name] = wanted
            continue
        theirs = backbone_operators if name.startswith("backbone.") else operators
        names, order = _theirs(name, network, state, parts, [OPERATION_NAMES[each] for each in theirs])
        if missing := [each for each in names if each not in state]:
            raise PnfsError(f"the reference state dict has no entry {missing[0]!r}")
        taken.update(names)
        tensors = [torch.as_tensor(state[each]) for each in names]
        shapes = [tuple(tensor.shape) for tensor in tensors]
        alike = len({shape[1:] for shape in shapes}) == 1 and () not in shapes
        stacked = tensors[0][..., order] if order else torch.cat(tensors) if alike else tensors[0]
        if stacked.shape != wanted.shape:
            raise PnfsError(f"{', '.join(names)} have shapes {shapes}; {name} needs {tuple(wanted.shape)} of them")
        found[name] = stacked
    left = [n for n in state if n not in taken and not n.endswith(_COUNTER)]
    if unknown := [name for name in left if not _is_dead(name, parts, own)]:
        raise PnfsError(f"{len(unknown)} entries fit nothing in the network, the first is {unknown[0]!r}")
    network.load_state_dict(found)
    return left


def _theirs(
    name: str,
    network: PoseFabricNetwork,
    state: Mapping[str, Tensor],
    construction: Sequence[str],
    operations: Sequence[str],
) -> tuple[list[str], list[int]]:
    """Their names of an entry of ours, one a part, and for each column of alpha or beta the column of theirs."""
    # A fabric backbone is one part of that name in both.
    parts = ["backbone"] if name.startswith("backbone.") else list(network.parts.names)
    if match := re.fullmatch(r".*fabrics\.(alpha|beta)\.(\w+)", name):
        kind, part = match.groups()
        ours = network.named_fabrics()[name[: match.start(1) - 1]].theta.operations
        columns = [operations.index(each) for each in ours]
        return [f"{part}.{kind}s"], columns if kind == "alpha" else [_CONNECTION[each] for each in NEIGHBOURS]
    if match := re.fullmatch(r".*fabrics\.cells\.layer(\d+)_scale(\d+)\.(.+)", name):
        layer, scale, entry = match.groups()
        cell = f"cell_{int(layer) - 1}_{SCALES.index(int(scale))}"
        entry = _in_cell(entry, operations, f"{parts[0]}.{cell}", state)
        return [f"{part}.{cell}.{entry}" for part in parts], []
    if match := re.fullmatch(r"adapters\.(\d+)\.(\w+)", name):
        level = SCALES.index(int(match[1]))
        return [f"reduce.{construction.index(part)}.{level}.{match[2]}" for part in parts], []
    if match := re.fullmatch(r"head\.(\w+)", name):
        return [f"{part}.final_layer.1.{match[1]}" for part in parts], []
    if match := re.fullmatch(r"backbone\.stem\.(\w+)\.(\w+)", name):
        return [f"backbone.stem.{_STEM[match[1]]}.{match[2]}"], []
    # torchvision nests conv-BN-ReLU triples in a block's sequence; theirs is flat.
    if match := re.fullmatch(r"(backbone\.features\.\d+\.conv)\.(\d+)\.(\d)\.(\w+)", name):
        conv, triple, place, last = match.groups()
        return [f"{conv}.{3 * int(triple) + int(place)}.{last}"], []
    if match := re.fullmatch(r"(backbone\.features\.(\d+)\.conv)\.(\d+)\.(\w+)", name):
        conv, block, place, last = match.groups()
        return [f"{conv}.{2 * (1 if block == '1' else 2) + int(place)}.{last}"], []
    # timm's HRNet and torchvision's ResNet have the public names, as theirs do.
    return [name.replace("backbone.network.", "backbone.", 1)], []


def _in_cell(entry: str, operations: Sequence[str], cell: str, state: Mapping[str, Tensor]) -> str:
    """Their name of an entry of a cell, below the cell's."""
    if match := re.fullmatch(r"cell\.output\.(\w+)", entry):
        return f"channel_keep.{match[1]}"
    if match := re.fullmatch(r"transforms\.(\w+)\.(conv|norm)\.(\w+)", entry):
        neighbour, layer, last = match.groups()
        base = f"propress_list.{_CONNECTION[neighbour]}"
        if f"{cell}.{base}.conv_1x1.weight" in state:
            return f"{base}.{'conv_1x1' if layer == 'conv' else 'bn'}.{last}"
        return f"{base}.operation.{0 if layer == 'conv' else 1}.{last}"
    _, _, edge, operation, last = entry.split(".", 4)  # cell.edges.<edge>.<operation>.<rest>
    base = f"cell_arch.{edge}.ops.{operations.index(operation)}"
    if match := re.fullmatch(r"(depthwise|pointwise|norm)\.(\d+)\.(\w+)", last):
        layer, step, last = match.groups()
        return f"{base}.operation.{4 * int(step) + _SEPARABLE[layer]}.{last}"
    # A pool and its norm.
    return f"{base}.1.{last.removeprefix('norm.')}"


def _is_dead(name: str, parts: Sequence[str], own: Mapping[str, Tensor]) -> bool:
    """Whether it belongs to a module that they build and never read."""
    prefix, _, rest = name.partition(".")
    if prefix in parts:
        return rest.startswith("stem.")
    if match := re.fullmatch(r"reduce\.(\d+)\.([0-3])\.(weight|bias)", name):
        # Levels of the pyramid that a short subnetwork does not read.
        adapted = any(entry.startswith("adapters.") for entry in own)
        read = f"adapters.{SCALES[int(match[2])]}.{match[3]}" in own
        return int(match[1]) < len(parts) and adapted and not read
    return name.startswith(("backbone.features.17.", "backbone.features.18."))


# --- HRNet and SimpleBaseline

PublicKind = Literal["hrnet", "simple_baseline"]

# Bottleneck blocks of the four stages of a ResNet -> its depth.
_DEPTHS: Mapping[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}

# Beginnings of public names, and of ours: timm and torchvision keep the public names below the backbone.
_NAMES: Mapping[PublicKind, Mapping[str, str]] = {
    "hrnet": {"final_layer.": "head.", "": "backbone.network."},
    "simple_baseline": {"final_layer.": "head.", "deconv_layers.": "upsampling.", "": "backbone."},
}
_LAST = "final_layer.weight"
# The public code keeps the order of MPII's files; ours is the paper's.
_MPII_FILE = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "pelvis", "thorax", "upper_neck", "head_top",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip


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
        raise PnfsError(f"{_LAST} is a convolution of {kernel}; only 1x1 (FINAL_CONV_KERNEL: 1) can be built")
    if not is_hrnet:
        return PublicNetwork("simple_baseline", resnet_depth(state), filters, joints)
    first = state.get("transition1.0.0.weight")
    width = 0 if first is None or first.ndim != 4 else len(first)
    if width not in (32, 48):
        raise PnfsError(f"an HRNet of width {width}; there are widths 32 and 48")
    return PublicNetwork("hrnet", width, filters, joints)


def load_public_state(network: PoseNetwork, state: Mapping[str, Tensor], kind: PublicKind) -> None:
    """Loads a public state dict, without the prefix "module.", into a baseline with a scalar head (d = 1), as the
    public ones have. Raises PnfsError if the state dict does not fit; lists the first mismatches."""
    skeleton = network.parts.skeleton
    public = _MPII_FILE if skeleton.name == MPII.name else skeleton.joints
    order = [public.index(joint) for joint in skeleton.joints]
    ours = {}
    for name, value in state.items():
        beginning = next(b for b in _NAMES[kind] if name.startswith(b))
        last = beginning == "final_layer." and len(value) == len(order)
        ours[_NAMES[kind][beginning] + name.removeprefix(beginning)] = value[order] if last else value
    load_strictly(network, ours, (), "its weights")


def resnet_depth(state: Mapping[str, Tensor], prefix: str = "") -> int:
    """The depth of the ResNet whose entries, in torchvision's names, stand below a prefix; else PnfsError."""
    pattern = re.compile(re.escape(prefix) + r"layer(\d)\.(\d+)\.conv3\.weight")
    stages = [match[1] for match in map(pattern.fullmatch, state) if match]
    counts = tuple(stages.count(stage) for stage in "1234")
    if counts not in _DEPTHS:
        raise PnfsError(f"a ResNet with {counts} bottleneck blocks; there are depths 50, 101 and 152")
    return _DEPTHS[counts]

"""Networks of public checkpoints (PoseNFS, HRNet, SimpleBaseline), built and filled; what `pnfs import` saves."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pnfs.body import MPII, MPII_FILE_JOINTS, skeleton_by_name
from pnfs.errors import PnfsError
from pnfs.importing.posenfs import posenfs_model, resnet_depth
from pnfs.models import PoseFabricNetwork, PoseNetwork
from pnfs.models.backbones import load_strictly
from pnfs.models.wiring import NEIGHBOURS, SCALES

_LAST, _UPSAMPLING = "final_layer.weight", "deconv_layers."


@dataclass(frozen=True)
class Imported:
    """A checkpoint in this package's terms."""

    kind: str  # Whose code it is from.
    model: dict[str, Any]  # Configuration of the network.
    network: PoseNetwork  # With its weights.
    flip_shift: int  # Pixels by which that code moves mirrored maps to the right.
    unread: Sequence[str] = ()  # Entries that no output depends on.


def import_state(
    settings: Mapping[str, Any], state: Mapping[str, Tensor], build: Callable[[Mapping[str, Any]], PoseNetwork]
) -> Imported:
    """The network of a state dict of the authors' code (PoseNFS), HRNet or SimpleBaseline.

    `settings` are the command's, `build` makes a network of its configuration. Raises PnfsError if it is none of
    these, or if it and the settings contradict each other, leave something open, or describe what cannot be built.
    """
    if any(name.startswith("network.") for name in state):
        raise PnfsError("has the names of this package's own checkpoints, which need no import")
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise PnfsError(f"{name} holds numbers that are not finite")
    given = {**settings, "skeleton": settings["dataset"].get("skeleton")}
    if any(name.endswith(".alphas") for name in state):
        # They were trained on images as OpenCV reads them.
        model = posenfs_model(given | {"channel_order": given["channel_order"] or "bgr"}, state)
        network = build(model)
        assert isinstance(network, PoseFabricNetwork)
        return Imported("PoseNFS", model, network, 0, load_posenfs(network, state))
    model = _public_model(given, state)
    for key in ("operators", "backbone_operators"):
        if given[key] is not None:
            raise PnfsError(f"{key} is for checkpoints of PoseNFS")
    network = build(model)
    _load_public(network, state)
    return Imported(model["_target_"].rsplit(".", 1)[-1].removesuffix("Pose"), model, network, 1)


def _public_model(given: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Configuration of the network that a state dict of the public HRNet or SimpleBaseline code belongs to."""
    is_hrnet = any(name.startswith("stage4.") for name in state)
    is_baseline = any(name.startswith(_UPSAMPLING) for name in state)
    if _LAST not in state or state[_LAST].ndim != 4 or not (is_hrnet or is_baseline):
        raise PnfsError(f"has names of neither PoseNFS, HRNet nor SimpleBaseline, such as {next(iter(state))!r}")
    joints, filters, *kernel = state[_LAST].shape
    if kernel != [1, 1]:
        raise PnfsError(f"{_LAST} is a convolution of {kernel}; only 1x1 (FINAL_CONV_KERNEL: 1) can be built")
    skeleton = given["skeleton"] or {16: "mpii", 17: "coco"}.get(joints)
    if skeleton is None or len(skeleton_by_name(skeleton)) != joints:
        raise PnfsError(f"dataset: the checkpoint makes {joints} maps, which are not {skeleton}'s")
    order = given["channel_order"] or ("rgb" if is_hrnet else "bgr")
    model: dict[str, Any] = {"skeleton": skeleton, "vector_dim": 1, "channel_order": order}
    if is_hrnet:
        first = state.get("transition1.0.0.weight")
        width = 0 if first is None or first.ndim != 4 else len(first)
        if width not in (32, 48):
            raise PnfsError(f"an HRNet of width {width}; there are widths 32 and 48")
        name, backbone = "HRNetPose", {"width": width, "last_stage": 4, "finest_only": True}
    else:
        name, backbone = "SimpleBaseline", {"depth": resnet_depth(state)}
        model["filters"] = filters
    model["backbone"] = {
        "_target_": f"pnfs.models.backbones.{'HRNet' if is_hrnet else 'ResNet'}", **backbone, "weights": "none"
    }  # fmt: skip
    return model | {"_target_": f"pnfs.models.baselines.{name}"}


def _load_public(network: PoseNetwork, state: Mapping[str, Tensor]) -> None:
    """Loads a public state dict into a baseline with a scalar head (d = 1); PnfsError if it does not fit."""
    skeleton = network.parts.skeleton
    public = MPII_FILE_JOINTS if skeleton.name == MPII.name else skeleton.joints
    order = [public.index(joint) for joint in skeleton.joints]
    # timm and torchvision keep the public names below the backbone.
    below = "backbone." if any(name.startswith(_UPSAMPLING) for name in state) else "backbone.network."
    names = {"final_layer.": "head.", _UPSAMPLING: "upsampling.", "": below}
    ours = {}
    for name, value in state.items():
        beginning = next(b for b in names if name.startswith(b))
        last = beginning == "final_layer." and len(value) == len(order)
        ours[names[beginning] + name.removeprefix(beginning)] = value[order] if last else value
    load_strictly(network, ours, (), "its weights")


# --- PoseNFS has a module a part (`<part>.cell_<layer>_<scale>...`), where ours stacks the parts

# Their three candidates are parallel, above (finer), below (coarser).
_CONNECTION: Mapping[str, int] = {"same": 0, "finer": 1, "coarser": 2}
_STEM = {"conv1": 0, "norm1": 1, "conv2": 2, "norm2": 3, "project": 5}
# In their sequence a repeat is depthwise, pointwise, BN, ReLU.
_SEPARABLE = {"depthwise": 0, "pointwise": 1, "norm": 2}
_COUNTER = "num_batches_tracked"


def load_posenfs(network: PoseFabricNetwork, state: Mapping[str, Tensor]) -> list[str]:
    """Copies a state dict of the authors' code into the network of its `posenfs_model`.

    Returns the names of the entries that no output depends on. Raises PnfsError if an entry is missing, of another
    shape, or is known to no module of ours.
    """
    own, found, taken = network.state_dict(), {}, set()
    for name, wanted in own.items():
        if name.endswith(_COUNTER):
            found[name] = wanted
            continue
        names = _theirs(name, network, state)
        if missing := [each for each in names if each not in state]:
            raise PnfsError(f"the reference state dict has no entry {missing[0]!r}")
        taken.update(names)
        tensors = [torch.as_tensor(state[each]) for each in names]
        shapes = [tuple(tensor.shape) for tensor in tensors]
        alike = len({shape[1:] for shape in shapes}) == 1 and () not in shapes
        stacked = torch.cat(tensors) if alike else tensors[0]
        if stacked.shape != wanted.shape:
            raise PnfsError(f"{', '.join(names)} have shapes {shapes}; {name} needs {tuple(wanted.shape)} of them")
        found[name] = stacked[..., [_CONNECTION[n] for n in NEIGHBOURS]] if ".beta." in name else stacked
    left = [n for n in state if n not in taken and not n.endswith(_COUNTER)]
    if unknown := [name for name in left if not _is_dead(name, network.parts.names, own)]:
        raise PnfsError(f"{len(unknown)} entries fit nothing in the network, the first is {unknown[0]!r}")
    network.load_state_dict(found)
    return left


def _theirs(name: str, network: PoseFabricNetwork, state: Mapping[str, Tensor]) -> list[str]:
    """Their names of an entry of ours, one a part."""
    # A fabric backbone is one part of that name in both.
    parts = ["backbone"] if name.startswith("backbone.") else network.parts.names
    if match := re.fullmatch(r".*fabrics\.(alpha|beta)\.(\w+)", name):
        return [f"{match[2]}.{match[1]}s"]
    if match := re.fullmatch(r"(.*fabrics)\.cells\.layer(\d+)_scale(\d+)\.(.+)", name):
        fabric, layer, scale, last = match.groups()
        cell = f"cell_{int(layer) - 1}_{SCALES.index(int(scale))}"
        operations = network.named_fabrics()[fabric].theta.operations
        last = _in_cell(last, operations, f"{parts[0]}.{cell}", state)
        return [f"{part}.{cell}.{last}" for part in parts]
    if match := re.fullmatch(r"adapters\.(\d+)\.(\w+)", name):
        level = SCALES.index(int(match[1]))
        return [f"reduce.{place}.{level}.{match[2]}" for place in range(len(parts))]
    if match := re.fullmatch(r"head\.(\w+)", name):
        return [f"{part}.final_layer.1.{match[1]}" for part in parts]
    if match := re.fullmatch(r"backbone\.stem\.(\w+)\.(\w+)", name):
        return [f"backbone.stem.{_STEM[match[1]]}.{match[2]}"]
    # torchvision nests conv-BN-ReLU triples in a block's sequence; theirs is flat.
    if match := re.fullmatch(r"(backbone\.features\.\d+\.conv)\.(\d+)\.(\d)\.(\w+)", name):
        conv, triple, place, last = match.groups()
        return [f"{conv}.{3 * int(triple) + int(place)}.{last}"]
    if match := re.fullmatch(r"(backbone\.features\.(\d+)\.conv)\.(\d+)\.(\w+)", name):
        conv, block, place, last = match.groups()
        return [f"{conv}.{2 * (1 if block == '1' else 2) + int(place)}.{last}"]
    # timm's HRNet and torchvision's ResNet have the public names, as theirs do.
    return [name.replace("backbone.network.", "backbone.", 1)]


def _in_cell(own: str, operations: Sequence[str], cell: str, state: Mapping[str, Tensor]) -> str:
    """Their name of an entry of a cell, below the cell's."""
    if match := re.fullmatch(r"cell\.output\.(\w+)", own):
        return f"channel_keep.{match[1]}"
    if match := re.fullmatch(r"transforms\.(\w+)\.(conv|norm)\.(\w+)", own):
        neighbour, layer, last = match.groups()
        base = f"propress_list.{_CONNECTION[neighbour]}"
        if f"{cell}.{base}.conv_1x1.weight" in state:
            return f"{base}.{'conv_1x1' if layer == 'conv' else 'bn'}.{last}"
        return f"{base}.operation.{0 if layer == 'conv' else 1}.{last}"
    _, _, edge, operation, last = own.split(".", 4)  # cell.edges.<edge>.<operation>.<rest>
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

"""The network that the entries of a checkpoint of the authors' public code (PoseNFS) describe."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from pnfs.body import Skeleton, skeleton_by_name
from pnfs.errors import PnfsError
from pnfs.models.wiring import layer_scales

Mode = Mapping[str, Sequence[int]]
"""Part -> its joints' numbers, as in our skeletons, both in the order of construction."""


def _modes(h: int, hips: Sequence[int], upper_legs: Sequence[int], joints: int) -> Sequence[Mode]:
    """Their part modes, P = 1, 3, 5, 8, of a skeleton that begins with `h` joints of the head."""
    return (
        {"whole_body": range(joints)},
        {"upper_limb_part": range(h, h + 6), "head_part": range(h), "lower_limb_part": range(h + 6, joints)},
        {
            "left_arm_part": (h + 2, h + 4), "right_arm_part": (h + 3, h + 5), "legs_part": range(h + 8, h + 12),
            "head_shoulder_part": range(h + 2), "hips_part": hips,
        },
        {
            "left_upper_arm_part": (h, h + 2), "right_upper_arm_part": (h + 1, h + 3),
            "left_lower_arm_part": (h + 2, h + 4), "right_lower_arm_part": (h + 3, h + 5),
            "left_lower_leg_part": (h + 8, h + 10), "right_lower_leg_part": (h + 9, h + 11),
            "head_shoulder_part": range(h + 2), "upper_legs_part": upper_legs,
        },
    )  # fmt: skip


PARTS: Mapping[str, Sequence[Mode]] = {
    "mpii": _modes(3, (15, 9, 10), (9, 15, 10, 11, 12), 16),
    "coco": _modes(5, (11, 12), range(11, 15), 17),
}

OPERATION_NAMES: Mapping[str, str] = {
    **{"Zero": "zero", "skip_connect": "skip", "avg_pool_3x3": "avg_pool_3x3", "max_pool_3x3": "max_pool_3x3"},
    **{f"Sep_Conv_{size}": f"sep_conv_{size}" for size in ("3x3", "5x5")},
    **{f"Atr_Conv_{size}": f"dil_conv_{size}" for size in ("3x3", "5x5")},
}
"""Their names of the candidate operations, and ours."""

# Bottleneck blocks of the four stages of a ResNet -> its depth.
_DEPTHS: Mapping[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}

# --- what the entries describe


class _Fabric(NamedTuple):
    """What the entries of one of their fabrics say."""

    first_layer: int  # First and last layer that are built, 1-based.
    last_layer: int
    nodes: int  # H.
    channels: int  # C.
    alpha_per_cell: bool  # Each cell has an alpha of its own.
    operations: tuple[tuple[str, ...], ...]  # Of each column of alpha, those with such entries.


def posenfs_model(given: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Configuration of the network that a state dict of the authors' code, without "module.", belongs to.

    `given`: "skeleton", mpii or coco, None for what the entries say; "operators", "backbone_operators", in the
    order of alpha's columns, None where the entries tell them; "channel_order", and the groups "operations" and
    "variant". Raises PnfsError if the entries contradict them or each other, leave something open, or describe
    what cannot be built here.
    """
    names = [name.removesuffix(".alphas") for name in state if name.endswith(".alphas")]
    skeleton, mode, vector_dim = _parts(state, [n for n in names if n != "backbone"], given["skeleton"])
    fabrics = {part: _fabric(state, part) for part in mode}
    if len(set(fabrics.values())) != 1:
        raise PnfsError(f"the fabrics of {', '.join(fabrics)} are not alike")
    fabric = fabrics.popitem()[1]
    layers = {"layers": fabric.last_layer, "last_layers": fabric.last_layer - fabric.first_layer + 1}
    return {
        "_target_": "pnfs.models.PoseFabricNetwork",
        "backbone": _backbone(given, state),
        "skeleton": skeleton.name,
        "parts": {part: [skeleton.joints[i] for i in joints] for part, joints in mode.items()},
        "fabrics": _configured(given, fabric, "operators", list(mode)) | layers,
        "vector_dim": vector_dim,
        "channel_order": given["channel_order"],
    }


def _parts(state: Mapping[str, Tensor], names: Sequence[str], skeleton: str | None) -> tuple[Skeleton, Mode, int]:
    """Skeleton, part -> joints, and d, which must make the last layers' channels."""
    outputs = {n: len(_entry(state, f"{n}.final_layer.1.weight", 4)) for n in names}
    found = []
    for name, modes in PARTS.items():
        for mode in modes if skeleton in (None, name) else ():
            dims = {outputs[part] / len(joints) for part, joints in mode.items() if part in outputs}
            if set(mode) == set(names) and len(dims) == 1 and min(dims).is_integer():
                found.append((skeleton_by_name(name), mode, int(min(dims))))
    listed = ", ".join(f"{name} ({count})" for name, count in outputs.items())
    if len(found) > 1:
        raise PnfsError(f"dataset is needed, mpii or coco: both fit the parts {listed}")
    if not found:
        raise PnfsError(f"parts and their channels, {listed}, are no part mode of {skeleton or 'mpii or coco'}")
    return found[0]


def _fabric(state: Mapping[str, Tensor], prefix: str, cut_layers: int = 0) -> _Fabric:
    """The fabric below a part's name, or "backbone", whose grid has `cut_layers` layers more."""
    pattern = re.compile(re.escape(prefix) + r"\.cell_(\d+)_(\d+)\.channel_keep\.weight")
    cells = {(int(m[1]), int(m[2])) for m in map(pattern.fullmatch, state) if m}
    if not cells:
        raise PnfsError(f"{prefix} has alphas, but no cell_<layer>_<scale>.channel_keep.weight")
    first, last = min(cells)[0], max(cells)[0]
    # A layer has a cell or more: a file cannot ask for a grid larger than itself.
    expected = {
        (layer, place)
        for layer in range(first, min(last + 1, first + len(cells)))
        for place in range(len(layer_scales(layer + 1, last + 1 + cut_layers)))
    }
    if cells != expected:
        odd = ", ".join(f"cell_{layer}_{place}" for layer, place in sorted(cells ^ expected))
        raise PnfsError(f"{prefix}: its cells are not the paper's grid; too many or missing: {odd}")
    channels, inputs, *_ = _entry(state, f"{prefix}.cell_{first}_0.channel_keep.weight", 4).shape
    nodes = inputs // channels
    alpha, beta = _entry(state, f"{prefix}.alphas"), _entry(state, f"{prefix}.betas")
    per_cell, edges = alpha.ndim == 3, nodes * (nodes + 1) // 2
    more = any(name.startswith(f"{prefix}.cell_") and ".propress_list.3." in name for name in state)
    sound = nodes and alpha.shape[:-1] == ((len(cells), edges) if per_cell else (edges,)) and not channels % 4
    if more or not sound or beta.shape != (len(cells), 3):
        raise PnfsError(
            f"{prefix}: alphas of shape {tuple(alpha.shape)} and betas of {tuple(beta.shape)} do not fit "
            f"{len(cells)} cells of H={nodes}; cells with two input nodes (the paper has one) cannot be built here"
        )
    ops = f"{prefix}.cell_{first}_0.cell_arch.0.ops"
    options = tuple(_operation(state, f"{ops}.{k}.") for k in range(alpha.shape[-1]))
    return _Fabric(first + 1, last + 1, nodes, channels // 4, per_cell, options)


def _operation(state: Mapping[str, Tensor], prefix: str) -> tuple[str, ...]:
    """The operations that leave such entries below the prefix."""
    shapes = {n.removeprefix(prefix): x.shape for n, x in state.items() if n.startswith(prefix)}
    if not shapes:
        return ("Zero", "skip_connect")
    if set(shapes) <= {"1.running_mean", "1.running_var", "1.num_batches_tracked"}:
        return ("avg_pool_3x3", "max_pool_3x3")
    depthwise = tuple(shapes.get("operation.0.weight", ()))
    if len(depthwise) == 4 and depthwise[1:] in ((1, 3, 3), (1, 5, 5)):
        kind = "Sep" if "operation.4.weight" in shapes else "Atr"
        return (f"{kind}_Conv_{depthwise[2]}x{depthwise[2]}",)
    raise PnfsError(f"{prefix} is an operation that cannot be built here; its entries are {', '.join(shapes)}")


def _configured(given: Mapping[str, Any], fabric: _Fabric, key: str, parts: Sequence[str]) -> dict[str, Any]:
    """Configuration of a fabric but for its layers; the names under `key` say which operations stand in alpha's
    columns where the entries leave it open."""
    options, names = fabric.operations, given[key]
    if names is None and max(map(len, options), default=0) == 1:
        names = [only for (only,) in options]
    listed = list(names or ())
    fit = all(name in column for name, column in zip(listed, options, strict=False))
    if not fit or not len(listed) == len(set(listed)) == len(options):
        columns = ", ".join(" or ".join(column) for column in options)
        raise PnfsError(
            f"{key} {'lists ' + ', '.join(listed) if listed else 'is needed'}: the {len(options)} columns of "
            f"alpha are {columns}; list them in the order of `operators` in the training's YAML"
        )
    return {
        "_target_": "pnfs.models.NeuralFabrics",
        "part_names": parts,
        "channels": fabric.channels,
        "nodes": fabric.nodes,
        "operations": {OPERATION_NAMES[name]: given["operations"][OPERATION_NAMES[name]] for name in listed},
        "alpha_per_cell": fabric.alpha_per_cell,
        "rules": given["variant"]["rules"],
    }


def _backbone(given: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    kinds = {"alphas": "FabricBackbone", "features.": "MobileNetV2", "stage3.": "HRNet", "layer4.": "ResNet"}
    kind = next((k for b, k in kinds.items() if any(n.startswith(f"backbone.{b}") for n in state)), None)
    made = {"_target_": f"pnfs.models.backbones.{kind}", "weights": "none"}
    if kind == "FabricBackbone":
        # Its last layer has all four scales, so that the grid closes three layers after it.
        fabric = _fabric(state, "backbone", 3)
        relu = given["variant"]["rules"]["stem_relu"]
        # How many layers the whole fabric had makes no difference to those that are kept.
        layers = {"layers": fabric.last_layer + 3, "first_layers": fabric.last_layer, "input_scales": [4]}
        return made | {
            "stem": {"_target_": "pnfs.models.backbones.Stem", "channels": fabric.channels, "relu": relu},
            "fabrics": _configured(given, fabric, "backbone_operators", ["backbone"]) | layers,
        }
    if given["backbone_operators"] is not None:
        raise PnfsError("backbone_operators: the checkpoint's backbone is no fabric")
    match kind:
        case "HRNet":
            return made | {"width": len(_entry(state, "backbone.transition1.0.0.weight", 4)), "last_stage": 3}
        case "ResNet":
            return made | {"depth": resnet_depth(state, "backbone.")}
        case "MobileNetV2":
            return made
    raise PnfsError(f"the checkpoint's backbone is none of theirs: {', '.join(kinds.values())}")


def resnet_depth(state: Mapping[str, Tensor], prefix: str = "") -> int:
    """The depth of the ResNet whose entries, in torchvision's names, stand below a prefix; else PnfsError."""
    pattern = re.compile(re.escape(prefix) + r"layer(\d)\.(\d+)\.conv3\.weight")
    stages = [match[1] for match in map(pattern.fullmatch, state) if match]
    counts = tuple(stages.count(stage) for stage in "1234")
    if counts not in _DEPTHS:
        raise PnfsError(f"a ResNet with {counts} bottleneck blocks; there are depths 50, 101 and 152")
    return _DEPTHS[counts]


def _entry(state: Mapping[str, Tensor], name: str, dimensions: int | None = None) -> Tensor:
    if name not in state:
        raise PnfsError(f"the checkpoint has no entry {name!r}")
    shape = state[name].shape
    if dimensions is not None and (len(shape) != dimensions or 0 in shape):
        raise PnfsError(f"{name} has shape {tuple(shape)}, not {dimensions} dimensions")
    return state[name]

"""What a checkpoint of the authors' public code (PoseNFS) holds, read off its entries."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from pnfs.body import Skeleton, skeleton_by_name
from pnfs.errors import PnfsError
from pnfs.importing.weights import resnet_depth
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

# A backbone's last layer has all four scales, so that the grid closes after it.
_BACKBONE_CUT = 3


class PoseNFSFabric(NamedTuple):
    """What the entries of one of their fabrics say."""

    first_layer: int  # First and last layer that are built, 1-based.
    last_layer: int
    nodes: int  # H.
    channels: int  # C.
    alpha_per_cell: bool  # Each cell has an alpha of its own.
    operations: tuple[tuple[str, ...], ...]  # Of each column of alpha, those with such entries.

    def chosen(self, names: Sequence[str] | None, key: str) -> tuple[str, ...]:
        """The operations in the order of alpha's columns, from what the entries or the configuration's `key` say.

        Raises PnfsError if the entries leave it open, or contradict the names.
        """
        options = self.operations
        if names is None and max(map(len, options), default=0) == 1:
            return tuple(only for (only,) in options)
        listed = tuple(names or ())
        fit = all(name in column for name, column in zip(listed, options, strict=False))
        if not fit or not len(listed) == len(set(listed)) == len(options):
            columns = ", ".join(" or ".join(column) for column in options)
            raise PnfsError(
                f"{key} {'lists ' + ', '.join(listed) if listed else 'is needed'}: the {len(options)} columns of "
                f"alpha are {columns}; list them in the order of the training's `operators`, or give config=FILE"
            )
        return listed


class PoseNFSModel(NamedTuple):
    """What the entries of a checkpoint say about its network."""

    skeleton: Skeleton
    parts: Mapping[str, tuple[str, ...]]  # Part -> joints, both in the order of construction.
    vector_dim: int  # d.
    fabric: PoseNFSFabric  # The subnetworks, which are alike.
    backbone: str  # mobilenet_v2, resnet, hrnet or fabric.
    backbone_size: int | None  # Depth of a ResNet, width of an HRNet.
    backbone_fabric: PoseNFSFabric | None


def describe_posenfs(state: Mapping[str, Tensor], skeleton: str | None = None) -> PoseNFSModel:
    """The network that a state dict of the authors' code, without the prefix "module.", belongs to.

    `skeleton`: "mpii" or "coco"; None for what the entries say. Raises PnfsError if the entries contradict each
    other, leave open what is not given, or describe what cannot be built here.
    """
    found = [match[1] for name in state if (match := re.fullmatch(r"(\w+)\.alphas", name))]
    chosen, joints, dim = _parts(state, [n for n in found if n != "backbone"], skeleton)
    fabrics = {part: read_fabric(state, part) for part in joints}
    if len(set(fabrics.values())) != 1:
        raise PnfsError(f"the fabrics of {', '.join(fabrics)} are not alike")
    backbone, size = _backbone(state)
    return PoseNFSModel(
        skeleton=chosen,
        parts={part: tuple(chosen.joints[i] for i in ids) for part, ids in joints.items()},
        vector_dim=dim,
        fabric=fabrics.popitem()[1],
        backbone=backbone,
        backbone_size=size,
        backbone_fabric=read_fabric(state, "backbone", _BACKBONE_CUT) if backbone == "fabric" else None,
    )


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


def read_fabric(state: Mapping[str, Tensor], prefix: str, cut_layers: int = 0) -> PoseNFSFabric:
    """What the entries below a part's name, or "backbone", say about a fabric of `cut_layers` layers more.

    Raises PnfsError if they contradict each other, or cells have two input nodes.
    """
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
    return PoseNFSFabric(first + 1, last + 1, nodes, channels // 4, per_cell, options)


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


def _backbone(state: Mapping[str, Tensor]) -> tuple[str, int | None]:
    """Kind and size of the backbone."""
    kinds = {"alphas": "fabric", "features.": "mobilenet_v2", "stage3.": "hrnet", "layer4.": "resnet"}
    for beginning, kind in kinds.items():
        if any(name.startswith(f"backbone.{beginning}") for name in state):
            if kind == "hrnet":
                return kind, len(_entry(state, "backbone.transition1.0.0.weight", 4))
            return kind, resnet_depth(state, "backbone.") if kind == "resnet" else None
    raise PnfsError(f"the checkpoint's backbone is none of theirs: {', '.join(kinds.values())}")


def _entry(state: Mapping[str, Tensor], name: str, dimensions: int | None = None) -> Tensor:
    if name not in state:
        raise PnfsError(f"the checkpoint has no entry {name!r}")
    shape = state[name].shape
    if dimensions is not None and (len(shape) != dimensions or 0 in shape):
        raise PnfsError(f"{name} has shape {tuple(shape)}, not {dimensions} dimensions")
    return state[name]

"""Loading checkpoints of the authors' public code (PoseNFS) into our models.

Their state dict names one module a part (`<part>.cell_<layer>_<scale>...`); ours stacks the parts. Build
the model with `rules=POSENFS` to get the same outputs. `pnfs.importing.posenfs` reads off what to build.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pnfs.errors import PnfsError
from pnfs.models.network import PoseFabricNetwork
from pnfs.models.wiring import NEIGHBOURS, SCALES

# Their three candidates are parallel, above (finer), below (coarser).
_CONNECTION: Mapping[str, int] = {"same": 0, "finer": 1, "coarser": 2}

OPERATION_NAMES: Mapping[str, str] = {
    "Zero": "zero",
    "skip_connect": "skip",
    "Sep_Conv_3x3": "sep_conv_3x3",
    "Atr_Conv_3x3": "dil_conv_3x3",
    "Sep_Conv_5x5": "sep_conv_5x5",
    "Atr_Conv_5x5": "dil_conv_5x5",
    "avg_pool_3x3": "avg_pool_3x3",
    "max_pool_3x3": "max_pool_3x3",
}
"""Their names of the candidate operations, and ours."""

_STEM = {"conv1": 0, "norm1": 1, "conv2": 2, "norm2": 3, "project": 5}
# In their sequence a repeat is depthwise, pointwise, BN, ReLU.
_SEPARABLE = {"depthwise": 0, "pointwise": 1, "norm": 2}
_COUNTER = "num_batches_tracked"


def ours_of(operation_names: Sequence[str]) -> list[str]:
    """Our names of their operations; raises PnfsError for one that is not built here."""
    if unknown := [name for name in operation_names if name not in OPERATION_NAMES]:
        raise PnfsError(
            f"unknown reference operations: {', '.join(unknown)}; there are {', '.join(OPERATION_NAMES)}"
        )
    return [OPERATION_NAMES[name] for name in operation_names]


def load_posenfs_state_dict(
    network: PoseFabricNetwork,
    state: Mapping[str, Tensor],
    parts: Sequence[str],
    operation_names: Sequence[str],
    backbone_operation_names: Sequence[str] = (),
) -> list[str]:
    """Copies a state dict of the public implementation into `network`, and names the entries that no output
    depends on.

    The network is built with the same Theta, part mode and `rules=POSENFS`; entries of `state` lack the prefix
    "module."; `parts` are in the order of their construction, operations in that of their alpha's columns.

    Raises PnfsError if an entry is missing, has another shape, or is known to no module of ours.
    """
    if set(network.parts.names) != set(parts):
        raise PnfsError(f"the network's parts are {network.parts.names}, not {tuple(parts)}")
    operations = {False: ours_of(operation_names), True: ours_of(backbone_operation_names)}
    for name, fabrics in network.named_fabrics().items():
        ours, theirs = fabrics.theta.operations, operations[_in_backbone(name)]
        if sorted(ours) != sorted(theirs):
            raise PnfsError(f"the network's operations are {ours}, the reference's {theirs}")
    own, found, taken = network.state_dict(), {}, set()
    for name, wanted in own.items():
        if name.endswith(_COUNTER):
            found[name] = wanted
            continue
        names, order = _theirs(name, network, state, parts, operations)
        if missing := [each for each in names if each not in state]:
            raise PnfsError(f"the reference state dict has no entry {missing[0]!r}")
        taken.update(names)
        tensors = [torch.as_tensor(state[each]) for each in names]
        shapes = [tuple(tensor.shape) for tensor in tensors]
        alike = len({shape[1:] for shape in shapes}) == 1 and () not in shapes
        stacked = torch.cat(tensors) if alike else tensors[0]
        if order:
            stacked = tensors[0][..., order]
        if stacked.shape != wanted.shape:
            raise PnfsError(
                f"{', '.join(names)} have shapes {', '.join(map(str, shapes))}; {name}, which is made of them, "
                f"needs {tuple(wanted.shape)}"
            )
        found[name] = stacked
    left = [n for n in state if n not in taken and not n.endswith(_COUNTER)]
    if unknown := [name for name in left if not _is_dead(name, parts, own)]:
        raise PnfsError(
            f"{len(unknown)} entries of the reference state dict fit nothing in the network, "
            f"the first is {unknown[0]!r}"
        )
    network.load_state_dict(found)
    return left


def _in_backbone(name: str) -> bool:
    return name.startswith("backbone.")


def _theirs(
    name: str,
    network: PoseFabricNetwork,
    state: Mapping[str, Tensor],
    construction: Sequence[str],
    operations: Mapping[bool, Sequence[str]],
) -> tuple[list[str], list[int]]:
    """Their names of an entry of ours, one a part, and for each column of alpha or beta the column of theirs."""
    # A fabric backbone is one part of that name in both.
    parts = ["backbone"] if _in_backbone(name) else list(network.parts.names)
    theirs = operations[_in_backbone(name)]
    if match := re.fullmatch(r".*fabrics\.(alpha|beta)\.(\w+)", name):
        kind, part = match.groups()
        ours = network.named_fabrics()[name[: match.start(1) - 1]].theta.operations
        columns = [theirs.index(each) for each in ours]
        order = columns if kind == "alpha" else [_CONNECTION[each] for each in NEIGHBOURS]
        return [f"{part}.{kind}s"], order
    if match := re.fullmatch(r".*fabrics\.cells\.layer(\d+)_scale(\d+)\.(.+)", name):
        layer, scale, entry = match.groups()
        cell = f"cell_{int(layer) - 1}_{SCALES.index(int(scale))}"
        entry = _in_cell(entry, theirs, f"{parts[0]}.{cell}", state)
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
    match = re.fullmatch(r"cell\.edges\.(\d+)\.(\w+)\.(.+)", entry)
    if match is None:
        raise PnfsError(f"{entry} of a cell has no counterpart in the reference's code")
    edge, operation, last = match.groups()
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

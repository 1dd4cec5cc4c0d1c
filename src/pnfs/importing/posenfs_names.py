"""Loading checkpoints of the authors' public code (PoseNFS) into our models.

Their state dict names one module a part (`<part>.cell_<layer>_<scale>...`); ours stacks the parts. Build
the model with `rules=POSENFS` to get the same outputs. `pnfs.importing.posenfs` reads off what to build.
"""

import re
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from pnfs.errors import PnfsError
from pnfs.models.network import PoseFabricNetwork
from pnfs.models.wiring import NEIGHBOURS, SCALES, Neighbour

# Their three candidates are parallel, above (finer), below (coarser).
_CONNECTION: Mapping[Neighbour, int] = {"same": 0, "finer": 1, "coarser": 2}
_NEIGHBOURS = [_CONNECTION[name] for name in NEIGHBOURS]

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


def load_posenfs_state_dict(
    network: PoseFabricNetwork,
    state: Mapping[str, Tensor],
    part_names: Mapping[str, str],
    operation_names: Sequence[str],
    backbone_operation_names: Sequence[str] = (),
) -> list[str]:
    """Copies a state dict of the public implementation into `network`.

    Args:
        network: Built with the same Theta, part mode and `rules=POSENFS`.
        state: Name -> tensor or array in their naming, without the prefix "module.".
        part_names: Our part name -> theirs, in the order of the parts in their construction.
        operation_names: Their candidate operations, in the order of their alpha's columns.
        backbone_operation_names: The same for a fabric backbone.

    Returns:
        Names of the entries that no output depends on, which were left out.

    Raises:
        PnfsError: An entry is missing, has another shape, or is known to no module of ours.
    """
    if set(network.parts.names) != set(part_names):
        raise PnfsError(f"the network's parts are {network.parts.names}, not {tuple(part_names)}")
    operations = {
        "subnetworks": ours_of(operation_names),
        "backbone": ours_of(backbone_operation_names),
    }
    columns: dict[str, list[int]] = {}
    for name, fabrics in network.named_fabrics().items():
        ours, theirs = fabrics.theta.operations, operations[_fabric(name)]
        if sorted(ours) != sorted(theirs):
            raise PnfsError(f"the network's operations are {ours}, the reference's {theirs}")
        columns[_fabric(name)] = [theirs.index(operation) for operation in ours]
    parts = {part: part_names[part] for part in network.parts.names}
    names = _Names(state, parts, list(part_names), operations, columns)
    own, found = network.state_dict(), {}
    for name, wanted in own.items():
        value = wanted if name.endswith(_COUNTER) else names.tensor(name)
        if value.shape != wanted.shape:
            raise PnfsError(
                f"the reference's entries for {name} have shape {tuple(value.shape)}, the network "
                f"needs {tuple(wanted.shape)}"
            )
        found[name] = value
    left = [n for n in state if n not in names.taken and not n.endswith(_COUNTER)]
    unknown = [name for name in left if not names.is_dead(name, own)]
    if unknown:
        raise PnfsError(
            f"{len(unknown)} entries of the reference state dict fit nothing in the network, "
            f"the first is {unknown[0]!r}"
        )
    network.load_state_dict(found)
    return left


def ours_of(operation_names: Sequence[str]) -> list[str]:
    """Our names of their operations.

    Raises:
        PnfsError: An operation that is not built here.
    """
    unknown = [name for name in operation_names if name not in OPERATION_NAMES]
    if unknown:
        raise PnfsError(
            f"unknown reference operations: {', '.join(unknown)}; there are {', '.join(OPERATION_NAMES)}"
        )
    return [OPERATION_NAMES[name] for name in operation_names]


class _Names:
    """From names of our state dict to tensors of theirs.

    Args:
        state: Their state dict.
        parts: Our part name -> theirs, in our order.
        construction: Our part names in the order of their construction, which numbers `reduce.<place>`.
        operations: "subnetworks" and "backbone" -> our names of their operations, in their order.
        columns: The same keys -> for each column of our alpha the column of theirs.

    Attributes:
        taken: Their entries that were asked for.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        parts: dict[str, str],
        construction: list[str],
        operations: Mapping[str, Sequence[str]],
        columns: Mapping[str, Sequence[int]],
    ) -> None:
        self.state, self.operations, self.columns = state, operations, columns
        # A fabric backbone is one part of that name in both.
        self.parts = {"subnetworks": parts, "backbone": {"backbone": "backbone"}}
        self.places = [construction.index(part) for part in parts]
        self.taken: set[str] = set()

    def tensor(self, name: str) -> Tensor:
        """Their tensor for an entry of ours, parts side by side."""
        fabric = _fabric(name)
        if match := re.fullmatch(r".*fabrics\.(alpha|beta)\.(\w+)", name):
            kind, part = match.groups()
            # alpha is (E, O), or (cells, E, O) with one a cell.
            order = self.columns[fabric] if kind == "alpha" else _NEIGHBOURS
            return self._take(f"{self.parts[fabric][part]}.{kind}s")[..., order]
        if match := re.fullmatch(r".*fabrics\.cells\.layer(\d+)_scale(\d+)\.(.+)", name):
            layer, scale, entry = match.groups()
            cell = f"cell_{int(layer) - 1}_{SCALES.index(int(scale))}"
            prefixes = [f"{part}.{cell}" for part in self.parts[fabric].values()]
            return self._stacked(prefixes, self._in_cell(entry, fabric, prefixes[0]))
        if match := re.fullmatch(r"adapters\.(\d+)\.(\w+)", name):
            level = SCALES.index(int(match[1]))
            return self._stacked(
                [f"reduce.{place}" for place in self.places], f"{level}.{match[2]}"
            )
        if match := re.fullmatch(r"head\.(\w+)", name):
            prefixes = list(self.parts["subnetworks"].values())
            return self._stacked(prefixes, f"final_layer.1.{match[1]}")
        return self._take(_in_backbone(name))

    def _in_cell(self, entry: str, fabric: str, cell: str) -> str:
        """Their name of an entry of a cell, below the cell's."""
        if match := re.fullmatch(r"cell\.output\.(\w+)", entry):
            return f"channel_keep.{match[1]}"
        if match := re.fullmatch(r"transforms\.(\w+)\.(conv|norm)\.(\w+)", entry):
            neighbour, layer, last = match.groups()
            base = f"propress_list.{_CONNECTION[cast(Neighbour, neighbour)]}"
            if f"{cell}.{base}.conv_1x1.weight" in self.state:
                return f"{base}.{'conv_1x1' if layer == 'conv' else 'bn'}.{last}"
            return f"{base}.operation.{0 if layer == 'conv' else 1}.{last}"
        match = re.fullmatch(r"cell\.edges\.(\d+)\.(\w+)\.(.+)", entry)
        if match is None:
            raise PnfsError(f"{entry} of a cell has no counterpart in the reference's code")
        edge, operation, last = match.groups()
        base = f"cell_arch.{edge}.ops.{self.operations[fabric].index(operation)}"
        if match := re.fullmatch(r"(depthwise|pointwise|norm)\.(\d+)\.(\w+)", last):
            layer, step, last = match.groups()
            return f"{base}.operation.{4 * int(step) + _SEPARABLE[layer]}.{last}"
        # A pool and its norm.
        return f"{base}.1.{last.removeprefix('norm.')}"

    def _take(self, name: str) -> Tensor:
        if name not in self.state:
            raise PnfsError(f"the reference state dict has no entry {name!r}")
        self.taken.add(name)
        return torch.as_tensor(self.state[name])

    def _stacked(self, prefixes: Sequence[str], name: str) -> Tensor:
        parts = [self._take(f"{prefix}.{name}") for prefix in prefixes]
        try:
            return torch.cat(parts)
        except RuntimeError:
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise PnfsError(f"{name} of {', '.join(prefixes)} have shapes {shapes}") from None

    def is_dead(self, name: str, own: Mapping[str, Tensor]) -> bool:
        """Whether it belongs to a module that they build and never read."""
        if name.startswith(("backbone.features.17.", "backbone.features.18.")):
            return True
        prefix, _, rest = name.partition(".")
        if prefix in self.parts["subnetworks"].values():
            return rest.startswith("stem.")
        # Levels of the pyramid that a short subnetwork does not read.
        reduced = re.fullmatch(r"reduce\.(\d+)\.([0-3])\.(weight|bias)", name)
        return (
            reduced is not None
            and int(reduced[1]) in self.places
            and any(entry.startswith("adapters.") for entry in own)
            and f"adapters.{SCALES[int(reduced[2])]}.{reduced[3]}" not in own
        )


def _fabric(name: str) -> str:
    """The key of the fabric that an entry of ours would belong to."""
    return "backbone" if name.startswith("backbone.") else "subnetworks"


def _in_backbone(name: str) -> str:
    """Their name of an entry of our backbone, fabrics apart."""
    if match := re.fullmatch(r"backbone\.stem\.(\w+)\.(\w+)", name):
        return f"backbone.stem.{_STEM[match[1]]}.{match[2]}"
    # torchvision nests conv-BN-ReLU triples in a block's sequence; theirs is flat.
    if match := re.fullmatch(r"backbone\.features\.(\d+)\.conv\.(\d+)\.(\d)\.(\w+)", name):
        block, triple, place, last = match.groups()
        return f"backbone.features.{block}.conv.{3 * int(triple) + int(place)}.{last}"
    if match := re.fullmatch(r"backbone\.features\.(\d+)\.conv\.(\d+)\.(\w+)", name):
        block, place, last = match.groups()
        triples = 1 if block == "1" else 2
        return f"backbone.features.{block}.conv.{2 * triples + int(place)}.{last}"
    # timm's HRNet and torchvision's ResNet have the public names, as theirs do.
    return name.replace("backbone.network.", "backbone.", 1)

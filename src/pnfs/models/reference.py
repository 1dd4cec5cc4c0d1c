"""Loading checkpoints of the authors' public code (PoseNFS) into our models.

Their state dict names one module a part (`<part>.cell_<layer>_<scale>...`); ours stacks the parts. Build
the model with `rules=REFERENCE` to get the same outputs.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual

from pnfs.models.backbones import MobileNetV2
from pnfs.models.cell import Cell, MixedEdge
from pnfs.models.fabric import NEIGHBOURS, Down, GridCell, Neighbour, NeuralFabrics, Up
from pnfs.models.network import PoseFabricNetwork
from pnfs.models.operations import Pool, SeparableConv

# Their three candidates are parallel, above (finer), below (coarser).
_CONNECTION: Mapping[Neighbour, int] = {"same": 0, "finer": 1, "coarser": 2}

OPERATION_NAMES: Mapping[str, str] = {
    "Zero": "zero",
    "skip_connect": "skip",
    "Sep_Conv_3x3": "sep_conv_3x3",
    "Atr_Conv_3x3": "dil_conv_3x3",
    "avg_pool_3x3": "avg_pool_3x3",
    "max_pool_3x3": "max_pool_3x3",
}
"""Their names of the candidate operations, and ours."""

DEAD_PREFIXES = ("features.17.", "features.18.", "stem.")
"""Modules they build that no output depends on."""


class _Reader:
    """Takes entries out of a state dict and knows which were never taken."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.taken: set[str] = set()

    def take(self, name: str) -> Tensor:
        if name not in self.state:
            raise ValueError(f"the reference state dict has no entry {name!r}")
        self.taken.add(name)
        return torch.as_tensor(self.state[name])

    def stacked(self, prefixes: Sequence[str], name: str) -> Tensor:
        return torch.cat([self.take(f"{prefix}.{name}") for prefix in prefixes])


def load_reference_state_dict(
    network: PoseFabricNetwork,
    state: Mapping[str, Tensor],
    part_names: Mapping[str, str],
    operation_names: Sequence[str],
    backbone_operation_names: Sequence[str] = (),
) -> None:
    """Copies a state dict of the public implementation into `network`.

    Args:
        network: Built with the same Theta, part mode and `rules=REFERENCE`.
        state: Name -> tensor or array in their naming.
        part_names: Our part name -> theirs, in the order of the parts in their construction.
        operation_names: Their candidate operations, in the order of their alpha's columns.
        backbone_operation_names: The same for a fabric backbone.

    Raises:
        ValueError: An entry is missing, has another shape, or is known to no module of ours.
    """
    reader = _Reader(state)
    ours = network.subnetworks.fabrics.part_names
    if set(ours) != set(part_names):
        raise ValueError(f"the network's parts are {ours}, part_names has {tuple(part_names)}")
    prefixes = [part_names[part] for part in ours]
    assignments = [
        *_fabric_entries(network.subnetworks.fabrics, prefixes, operation_names, reader),
        *_adapter_entries(network, [list(part_names).index(part) for part in ours], reader),
    ]
    head = network.subnetworks.head
    assignments.append((head.weight, reader.stacked(prefixes, "final_layer.1.weight")))
    assignments.append((head.bias, reader.stacked(prefixes, "final_layer.1.bias")))
    backbone_fabrics = network.fabrics().get("backbone.fabrics")
    if backbone_fabrics is not None:
        assignments += _fabric_entries(
            backbone_fabrics, ["backbone"], backbone_operation_names, reader
        )
        assignments += _stem_entries(network.backbone.get_submodule("stem"), reader)
    else:
        assignments += _mobilenet_entries(network.backbone, reader)
    _refuse_unknown(reader)
    for target, value in assignments:
        if target.shape != value.shape:
            raise ValueError(
                f"a reference entry of shape {tuple(value.shape)} meets one of {tuple(target.shape)}"
            )
        target.data.copy_(value)


def _refuse_unknown(reader: _Reader) -> None:
    left = [
        name
        for name in reader.state
        if name not in reader.taken
        and not name.endswith("num_batches_tracked")
        and not any(name.split(".", 1)[-1].startswith(prefix) for prefix in DEAD_PREFIXES)
    ]
    if left:
        raise ValueError(
            f"{len(left)} entries of the reference state dict fit nothing in the network, "
            f"the first is {left[0]!r}"
        )


Assignments = list[tuple[Tensor, Tensor]]


def _fabric_entries(
    fabrics: NeuralFabrics, prefixes: list[str], operations: Sequence[str], reader: _Reader
) -> Assignments:
    unknown = [name for name in operations if name not in OPERATION_NAMES]
    if unknown:
        raise ValueError(f"unknown reference operations: {', '.join(unknown)}")
    entries: Assignments = []
    # Column k of our alpha is column columns[k] of theirs; the same for beta.
    theirs = [OPERATION_NAMES[name] for name in operations]
    columns = [theirs.index(name) for name in fabrics.operation_names]
    neighbours = [_CONNECTION[name] for name in NEIGHBOURS]
    for part, prefix in zip(fabrics.part_names, prefixes, strict=True):
        entries.append((fabrics.alpha[part], reader.take(f"{prefix}.alphas")[:, columns]))
        entries.append((fabrics.beta[part], reader.take(f"{prefix}.betas")[:, neighbours]))
    scales = sorted({cell.scale for cell in fabrics.wiring})
    for wiring in fabrics.wiring:
        cell = fabrics.cells[wiring.name]
        assert isinstance(cell, GridCell)
        names = [f"{p}.cell_{wiring.layer - 1}_{scales.index(wiring.scale)}" for p in prefixes]
        entries += _connection_entries(cell, names, reader)
        entries += _cell_entries(cell.cell, names, theirs, reader)
    return entries


def _connection_entries(cell: GridCell, names: list[str], reader: _Reader) -> Assignments:
    entries: Assignments = []
    for neighbour in NEIGHBOURS:
        if neighbour not in cell.transforms:
            continue
        transform = cell.transforms[neighbour]
        base = [f"{name}.propress_list.{_CONNECTION[neighbour]}" for name in names]
        if isinstance(transform, Down):
            conv, norm = [f"{b}.operation.0" for b in base], [f"{b}.operation.1" for b in base]
        else:
            assert isinstance(transform, Up)
            conv, norm = [f"{b}.conv_1x1" for b in base], [f"{b}.bn" for b in base]
        entries += _layer_entries(transform.conv, conv, reader)
        entries += _layer_entries(transform.norm, norm, reader)
    return entries


def _cell_entries(cell: Cell, names: list[str], theirs: list[str], reader: _Reader) -> Assignments:
    entries: Assignments = []
    for index, edge in enumerate(cell.edges):
        assert isinstance(edge, MixedEdge)
        for name, operation in edge.operations.items():
            base = [f"{n}.cell_arch.{index}.ops.{theirs.index(name)}" for n in names]
            if isinstance(operation, SeparableConv):
                # Their sequence a repeat: depthwise, pointwise, BN, ReLU.
                for step in range(len(operation.norm)):
                    layers = (operation.depthwise, operation.pointwise, operation.norm)
                    for offset, modules in enumerate(layers):
                        place = [f"{b}.operation.{4 * step + offset}" for b in base]
                        entries += _layer_entries(modules[step], place, reader)
            elif isinstance(operation, Pool):
                entries += _layer_entries(operation.norm, [f"{b}.1" for b in base], reader)
    return entries + _layer_entries(cell.output, [f"{n}.channel_keep" for n in names], reader)


def _layer_entries(module: nn.Module, prefixes: list[str], reader: _Reader) -> Assignments:
    return [
        (target, reader.stacked(prefixes, name))
        for name, target in module.state_dict(keep_vars=True).items()
    ]


def _adapter_entries(
    network: PoseFabricNetwork, part_positions: list[int], reader: _Reader
) -> Assignments:
    entries: Assignments = []
    for level, adapter in enumerate(network.subnetworks.adapters.values()):
        names = [f"reduce.{position}.{level}" for position in part_positions]
        entries += _layer_entries(adapter, names, reader)
    return entries


def _mobilenet_entries(backbone: nn.Module, reader: _Reader) -> Iterator[tuple[Tensor, Tensor]]:
    if not isinstance(backbone, MobileNetV2):
        raise ValueError(
            f"reference checkpoints have a MobileNet-V2 or a fabric backbone, not "
            f"{type(backbone).__name__}"
        )
    for index, block in enumerate(backbone.features):
        # torchvision nests conv-BN-ReLU triples in a block's sequence; theirs is flat.
        nested = block.conv if isinstance(block, InvertedResidual) else block
        inner = "conv." if isinstance(block, InvertedResidual) else ""
        leaves = [module for module in nested.modules() if not list(module.children())]
        for position, leaf in enumerate(leaves):
            for name, target in leaf.state_dict(keep_vars=True).items():
                if not name.endswith("num_batches_tracked"):
                    yield target, reader.take(f"backbone.features.{index}.{inner}{position}.{name}")


def _stem_entries(stem: nn.Module, reader: _Reader) -> Iterator[tuple[Tensor, Tensor]]:
    places = {"conv1": 0, "norm1": 1, "conv2": 2, "norm2": 3, "project": 5}
    for name, place in places.items():
        for entry, target in stem.get_submodule(name).state_dict(keep_vars=True).items():
            if not entry.endswith("num_batches_tracked"):
                yield target, reader.take(f"backbone.stem.{place}.{entry}")

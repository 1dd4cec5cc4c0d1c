"""Small networks for the tests, each of one call."""

from collections.abc import Mapping, Sequence
from typing import Any

from pnfs.body import skeleton_by_name
from pnfs.models import PAPER, FabricRules, NeuralFabrics, PoseFabricNetwork
from pnfs.models.backbones import Backbone, FabricBackbone, Stem
from pnfs.models.operations import BACKBONE_OPERATIONS, Operations

OF_NETWORK = ("vector_dim", "overlap", "channel_order")


def fabric_backbone(
    first_layers: int = 3,
    channels: int = 1,
    *,
    layers: int | None = None,
    rules: FabricRules = PAPER,
    operations: Operations = BACKBONE_OPERATIONS,
    **theta: Any,
) -> FabricBackbone:
    """A fabric backbone with the initial values that the configuration's has."""
    stem = Stem(channels, rules.stem_relu)
    fabrics = NeuralFabrics(
        part_names=("backbone",),
        layers=first_layers + 3 if layers is None else layers,
        first_layers=first_layers,
        input_scales=(4,),
        channels=channels,
        rules=rules,
        operations=operations,
        **theta,
    )
    return FabricBackbone(stem=stem, fabrics=fabrics)


def fabric_network(
    parts: Mapping[str, Sequence[str]] | None = None,
    *,
    backbone: Backbone | None = None,
    skeleton: str = "mpii",
    last_layers: int = 3,
    channels: int = 1,
    **others: Any,
) -> PoseFabricNetwork:
    """Fabrics on a backbone, a fabric of three layers unless one is given.

    Args:
        parts: Part -> joints; None for the whole body.
        backbone: Built before.
        skeleton: Its name.
        last_layers: n.
        channels: C.
        others: Arguments of `NeuralFabrics` and `PoseFabricNetwork`.
    """
    parts = {"whole": skeleton_by_name(skeleton).joints} if parts is None else parts
    of_network = {name: others.pop(name) for name in OF_NETWORK if name in others}
    backbone = fabric_backbone(rules=others.get("rules", PAPER)) if backbone is None else backbone
    fabrics = NeuralFabrics(
        part_names=tuple(parts), last_layers=last_layers, channels=channels, **others
    )
    return PoseFabricNetwork(
        backbone=backbone, fabrics=fabrics, skeleton=skeleton, parts=parts, **of_network
    )

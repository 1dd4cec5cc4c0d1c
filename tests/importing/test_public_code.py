"""Networks of public code against slow computations of them, and what the entries of their checkpoints tell."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import public_networks
from pnfs.body import skeleton_by_name
from pnfs.errors import PnfsError
from pnfs.importing.posenfs import PARTS, describe_posenfs, read_fabric
from pnfs.importing.weights import OPERATION_NAMES, describe_public, load_posenfs_state_dict, load_public_state
from pnfs.models import POSENFS, PoseFabricNetwork
from pnfs.models.backbones import ResNet
from pnfs.models.baselines import SimpleBaseline
from pnfs.models.operations import BACKBONE_OPERATIONS, SeparableConv
from posenfs_network import Fabric, PoseNFSWeights, posenfs
from tiny import fabric_backbone, fabric_network

OPERATIONS = {
    **BACKBONE_OPERATIONS,
    "sep_conv_5x5": lambda p, c: SeparableConv(p, c, kernel_size=5),
    "dil_conv_5x5": lambda p, c: SeparableConv(p, c, kernel_size=5, dilation=2, repeats=1),
}
FOUR = ("Zero", "skip_connect", "Atr_Conv_3x3", "Sep_Conv_3x3")
SIX = ("Zero", "skip_connect", "Sep_Conv_3x3", "Atr_Conv_3x3", "avg_pool_3x3", "max_pool_3x3")
FIVES = ("skip_connect", "Sep_Conv_5x5", "max_pool_3x3", "Atr_Conv_5x5", "Zero")
BACKBONE = Fabric(depth=6, first=0, last=2, hidden_states_num=1, factor=1, operators=FOUR)
SUBNETWORK = Fabric(depth=6, first=3, last=5, hidden_states_num=1, factor=2, operators=FOUR)

CASES = {
    "three nodes": {"subnetwork": replace(SUBNETWORK, hidden_states_num=3)},
    "three nodes, an alpha a cell": {
        "subnetwork": replace(SUBNETWORK, hidden_states_num=3, one_alpha_a_cell=True)
    },
    "an alpha a cell of the backbone": {
        "backbone": replace(BACKBONE, hidden_states_num=2, one_alpha_a_cell=True, operators=SIX)
    },
    "other operations": {"subnetwork": replace(SUBNETWORK, operators=FIVES)},
    "two layers": {"subnetwork": replace(SUBNETWORK, first=4)},
    "one layer": {"subnetwork": replace(SUBNETWORK, first=5)},
    "no adapters": {"subnetwork": replace(SUBNETWORK, factor=1)},
    "scalar maps, one part": {"vector_dim": 1, "mode": 0},
    "eight parts of COCO": {"skeleton": "coco", "mode": 3, "vector_dim": 4},
    "a deeper backbone": {"backbone": replace(BACKBONE, depth=9, last=3)},
}


def made(
    backbone: Fabric = BACKBONE,
    subnetwork: Fabric = SUBNETWORK,
    skeleton: str = "mpii",
    mode: int = 1,
    vector_dim: int = 8,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """A state dict in their names, images, and the score maps that their network makes of them."""
    weights = PoseNFSWeights()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    parts = {part: list(joints) for part, joints in PARTS[skeleton][mode].items()}
    fabrics = {"backbone": backbone, "subnetwork": subnetwork}
    with torch.no_grad():
        maps = posenfs(weights, images, parts=parts, vector_dim=vector_dim, **fabrics)
    return weights.state, images, maps


def load(
    state: dict[str, Tensor], backbone: Fabric = BACKBONE, subnetwork: Fabric = SUBNETWORK, reverse: bool = False
) -> tuple[PoseFabricNetwork, list[str]]:
    """Our network with their weights, parts and operations in their order or in the reverse; what is left."""
    told, turn = describe_posenfs(state), reversed if reverse else iter

    def options(fabric: Fabric) -> dict:
        names = [OPERATION_NAMES[name] for name in turn(fabric.operators)]
        return {
            "channels": fabric.factor,
            "nodes": fabric.hidden_states_num,
            "operations": {name: OPERATIONS[name] for name in names},
            "alpha_per_cell": fabric.one_alpha_a_cell,
            "rules": POSENFS,
        }

    network = fabric_network(
        dict(turn(told.parts.items())),
        backbone=fabric_backbone(first_layers=backbone.last + 1, **options(backbone)),
        skeleton=told.skeleton.name,
        layers=subnetwork.depth,
        last_layers=subnetwork.depth - subnetwork.first,
        vector_dim=told.vector_dim,
        **options(subnetwork),
    ).eval()
    operators = subnetwork.operators, backbone.operators
    return network, load_posenfs_state_dict(network, state, list(told.parts), *operators)


@pytest.mark.parametrize("reverse", [False, True], ids=["their order", "our order"])
@pytest.mark.parametrize("case", CASES)
def test_the_loaded_network_gives_their_maps(case: str, reverse: bool) -> None:
    given = CASES[case]
    state, images, expected = made(**given)
    backbone, subnetwork = given.get("backbone", BACKBONE), given.get("subnetwork", SUBNETWORK)
    network, unread = load(state, backbone, subnetwork, reverse)
    told = describe_posenfs(state)
    with torch.no_grad():
        maps = network.merged(network(images))
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    # What is said agrees with what was made.
    for fabric, theirs in ((told.fabric, subnetwork), (told.backbone_fabric, backbone)):
        assert fabric is not None
        layers = (theirs.first + 1, theirs.last + 1)
        assert fabric[:5] == (*layers, theirs.hidden_states_num, theirs.factor, theirs.one_alpha_a_cell)
    assert {name.split(".")[1] for name in unread if not name.startswith("reduce.")} == {"stem"}
    # n layers read the pyramid up to the level below their own.
    levels = {int(name.split(".")[2]) for name in unread if name.startswith("reduce.")}
    adapted = backbone.factor != subnetwork.factor
    assert levels == ({3: set(), 4: {3}, 5: {2, 3}}[subnetwork.first] if adapted else set())


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("head_part.cell_3_0.extra.weight", torch.zeros(1), r"head_part\.cell_3_0\.extra\.weight"),
        ("backbone.stem.7.weight", torch.zeros(1), r"backbone\.stem\.7\.weight"),
        ("reduce.3.0.weight", torch.zeros(1), r"reduce\.3\.0\.weight"),
        ("lower_limb_part.cell_5_0.channel_keep.bias", None, r"cell_5_0\.channel_keep\.bias"),
        ("backbone.stem.0.weight", torch.zeros(64, 1, 3, 3), r"stem\.0\.weight.*\(64, 1, 3, 3\)"),
        ("head_part.cell_5_0.channel_keep.weight", torch.zeros(8, 9, 1, 1), r"head_part\.cell_5_0"),
    ],
)
def test_entries_that_do_not_fit_are_named(name: str, value: Tensor | None, named: str) -> None:
    state = made()[0] | {name: value}
    with pytest.raises(PnfsError, match=named):
        load({name: tensor for name, tensor in state.items() if tensor is not None})


# --- what the entries tell


def test_operations_without_entries_must_be_listed() -> None:
    fabric = describe_posenfs(made(subnetwork=replace(SUBNETWORK, operators=SIX))[0]).fabric
    swapped = ("skip_connect", "Zero", *SIX[2:])
    assert (fabric.chosen(SIX, "operators"), fabric.chosen(swapped, "operators")) == (SIX, swapped)
    told = read_fabric(made(subnetwork=replace(SUBNETWORK, operators=FOUR[2:]))[0], "head_part")
    assert told.chosen(None, "operators") == FOUR[2:]
    exchanged = (*SIX[:2], "Atr_Conv_3x3", "Sep_Conv_3x3", *SIX[4:])
    for names in (None, FOUR, ("Zero", "Zero", *SIX[2:]), exchanged, ("conv_3x3", *SIX[1:])):
        with pytest.raises(PnfsError, match=r"operators .*6 columns of alpha are Zero or skip_connect"):
            fabric.chosen(names, "operators")


@pytest.mark.parametrize("skeleton", PARTS)
def test_the_dataset_is_told_by_the_parts_channels(skeleton: str) -> None:
    joints = skeleton_by_name(skeleton).joints
    for mode, parts in enumerate(PARTS[skeleton]):
        told = describe_posenfs(made(skeleton=skeleton, mode=mode, vector_dim=3)[0])
        assert (told.skeleton.name, told.vector_dim) == (skeleton, 3)
        assert told.parts == {part: tuple(joints[i] for i in ids) for part, ids in parts.items()}


def test_a_part_mode_that_fits_both_or_none_needs_a_key() -> None:
    state, _, _ = made(mode=0, vector_dim=17)
    assert describe_posenfs(state, "mpii").vector_dim == 17
    assert describe_posenfs(state, "coco").vector_dim == 16
    three, _, _ = made()
    own = {name.replace("head_part", "top"): value for name, value in three.items()}
    for arguments, message in (
        ((state,), r"dataset is needed.*whole_body \(272\)"), ((three, "coco"), "no part mode of coco"),
        ((own,), r"top \(24\).*no part mode"),
    ):  # fmt: skip
        with pytest.raises(PnfsError, match=message):
            describe_posenfs(*arguments)


CELL = "head_part.cell_3_0"


@pytest.mark.parametrize(
    ("added", "without", "message"),
    [
        ({"head_part.betas": (5, 3)}, None, r"head_part.*betas of \(5, 3\)"),
        ({"head_part.alphas": (4, 1, 4)}, None, r"head_part: alphas of shape \(4, 1, 4\)"),
        ({"head_part.alphas": (1, 5)}, None, "not alike"),
        ({"head_part.alphas": (2, 4)}, None, "head_part.*two input nodes"),
        ({"head_part.cell_4_0.propress_list.3.bn.bias": (1,)}, None, "two input nodes"),
        ({"head_part.cell_6_0.channel_keep.weight": (8, 8, 1, 1)}, None, "missing: cell_3_3"),
        ({"head_part.cell_9999999_0.channel_keep.weight": (8, 8, 1, 1)}, None, "cell_9999999_0"),
        ({f"{CELL}.channel_keep.weight": ()}, None, r"channel_keep\.weight has shape \(\)"),
        ({"head_part.final_layer.1.weight": ()}, None, r"final_layer\.1\.weight has shape \(\)"),
        ({f"{CELL}.cell_arch.0.ops.2.weight": (8, 8, 3, 3)}, ".ops.2.", r"head_part.*ops\.2.*weight"),
        ({}, "backbone.", "backbone"),
        ({"backbone.layer4.0.conv1.weight": (1,)}, "backbone.", "depths 50, 101 and 152"),
        # A backbone whose last layer lacks a scale is no pyramid.
        ({}, "backbone.cell_2_3", r"backbone.*cell_2_3"),
    ],
)
def test_entries_that_describe_no_network_are_refused(added, without, message) -> None:
    state = {k: v for k, v in made()[0].items() if without is None or without not in k}
    with pytest.raises(PnfsError, match=message):
        describe_posenfs(state | {name: torch.zeros(shape) for name, shape in added.items()})


# --- HRNet and SimpleBaseline


def test_public_networks_are_told_by_their_entries() -> None:
    simple, large = (public_networks.state(name, n) for name, n in (("simple_baseline", 16), ("hrnet", 17)))
    assert describe_public(simple) == ("simple_baseline", 50, 256, 16)
    assert describe_public(large) == ("hrnet", 32, 32, 17)
    assert describe_public({"fc.weight": torch.zeros(1, 1)}) is None
    deep = public_networks.state("simple_baseline", 16, (3, 8, 36, 3))
    assert describe_public(deep) == ("simple_baseline", 152, 256, 16)
    for state, message in (
        ({k: v for k, v in simple.items() if "conv3" not in k}, "depths 50, 101 and 152"),
        (large | {"transition1.0.0.weight": torch.zeros(18, 256, 3, 3)}, "width 18"),
        (simple | {"final_layer.weight": torch.zeros(16, 256, 3, 3)}, "final_layer"),
    ):
        with pytest.raises(PnfsError, match=message):
            describe_public(state)
    network = SimpleBaseline(backbone=ResNet(50, "none"), skeleton="mpii")
    with pytest.raises(PnfsError, match=r"backbone\.bn1\.weight"):
        load_public_state(network, {"conv1.weight": torch.zeros(1)}, "simple_baseline")

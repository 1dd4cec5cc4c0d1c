"""Fabrics: wiring against tables written by hand, forward against a literal Eq. 2."""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnfs.errors import PnfsError
from pnfs.models import PAPER, POSENFS, FabricRules, NeuralFabrics
from pnfs.models.cell import Cell
from pnfs.models.operations import BACKBONE_OPERATIONS, Operation
from pnfs.models.wiring import SCALES, KeptCell, Theta, layer_scales
from tiny import randomise

# (layer, scale) -> what stands for the finer, the same and the coarser neighbour: a scale of the
# layer before, and how it comes to the cell's own. Footnote 2 worked out by hand.
Table = dict[tuple[int, int], list[tuple[int, str]]]
KINDS = {"=": "identity", "-": "down", "+": "up"}


def table(text: str) -> Table:
    cells = re.findall(r"(\d+) (\d+): +(\d+.) +(\d+.) +(\d+.)", text)
    return {
        (int(layer), int(scale)): [(int(of[:-1]), KINDS[of[-1]]) for of in sources]
        for layer, scale, *sources in cells
    }


# The basic subnetwork of the paper: the last n=3 of L=6 layers, 3 + 2 + 1 cells. "4=" is the map at 1/4 as it
# is, "4-" comes down from it, "8+" up from that at 1/8.
SUBNETWORK = table("""
    4 4:  4= 4=  8+    4 8: 4- 8= 16+    4 16:  8- 16= 32+
    5 4:  4= 4=  8+    5 8: 4- 8= 16+
    6 4:  4= 4=  8+
""")
# A backbone of m=4 layers (L=7) on a stem at 1/4.
BACKBONE = table("""
    1 4:  4= 4=  4=    1 8: 4- 4-  4-
    2 4:  4= 4=  8+    2 8: 4- 8=  8=    2 16:  8-  8-  8-
    3 4:  4= 4=  8+    3 8: 4- 8= 16+    3 16:  8- 16= 16=    3 32: 16- 16- 16-
    4 4:  4= 4=  8+    4 8: 4- 8= 16+    4 16:  8- 16= 32+    4 32: 16- 32= 32=
""")


def grid(first: int, last: int, inputs: tuple[int, ...], layers: int = 6, **others) -> Theta:
    usual = {"channels": 1, "nodes": 1, "operations": ("skip",), "alpha_per_cell": False}
    return Theta(layers, first, last, inputs, **{**usual, **others})


@pytest.mark.parametrize(
    ("layers", "first", "last", "inputs", "table"),
    [(6, 4, 6, (4, 8, 16, 32), SUBNETWORK), (7, 1, 4, (4,), BACKBONE)],
)
def test_the_wiring_is_that_of_the_paper(layers, first, last, inputs, table: Table) -> None:
    cells = grid(first, last, inputs, layers).cells
    for cell in cells:
        assert [c.neighbour for c in cell.connections] == ["finer", "same", "coarser"]
    found = {(cell.layer, cell.scale): [(c.source, c.transform) for c in cell.connections] for cell in cells}
    assert found == table
    # Layer by layer, from fine to coarse: the order of beta's rows.
    assert list(found) == list(table)


def test_the_grid_opens_like_a_fan_and_closes_on_one_cell() -> None:
    assert [len(layer_scales(layer, 10)) for layer in range(1, 11)] == [2, 3, 4, 4, 4, 4, 4, 3, 2, 1]
    assert [len(grid(7 - n, 6, SCALES).cells) for n in range(1, 7)] == [1, 3, 6, 10, 13, 15]


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: grid(0, 3, SCALES), "0 to 3 "),
        (lambda: grid(4, 6, (32,)).cells, "layer 4, scale 1/4 "),
        (lambda: NeuralFabrics(nodes=0), "H=0"),
        (lambda: grid(4, 6, SCALES, operations=("skip", "skip")), "operations"),
        (lambda: NeuralFabrics(part_names=("keys",)), "'keys'"),
        (lambda: NeuralFabrics(last_layers=2, channels=1, kept={}), "part 'whole'"),
        (lambda: NeuralFabrics(kept={"whole": {"layer9_scale4": None}}), "part 'whole'"),  # type: ignore[dict-item]
        (lambda: KeptCell(("same", "below"), [["skip"]]), "kept cell"),  # type: ignore[arg-type]
    ],
)
def test_a_shape_that_cannot_be_is_refused(build: Callable[[], object], named: str) -> None:
    with pytest.raises(PnfsError, match=named):
        build()


class PlainNorm:
    """Batch normalisation with the weights of one of ours, by F.batch_norm on copies."""

    def __init__(self, norm: nn.Module) -> None:
        self.training = norm.training
        self.state = {name: value.detach().clone() for name, value in norm.state_dict().items()}

    def __call__(self, x: Tensor) -> Tensor:
        s = self.state
        mean, var, weight, bias = (s[k] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, self.training, 0.1, 1e-5)


def literal_transform(kind: str, module: nn.Module, x: Tensor, rules: FabricRules) -> Tensor:
    """T of Eq. 2 for one part; `module` only lends its weights."""
    norm = PlainNorm(module.norm)
    weight, bias = module.conv.weight, module.conv.bias
    assert (bias is not None) == rules.connection_bias
    rectify = F.relu if rules.rectify == "connection" else nn.Identity()
    if kind == "down":
        return rectify(norm(F.conv2d(x, weight, bias, stride=2, padding=1)))
    x = F.conv2d(x, weight, bias)
    size = (2 * x.shape[-2], 2 * x.shape[-1])
    if rules.upsample == "norm_first":
        # The ReLU stays with its normalisation.
        return F.interpolate(rectify(norm(x)), size, None, "bilinear", rules.align_corners)
    return rectify(norm(F.interpolate(x, size, None, "bilinear", rules.align_corners)))


def literal_cell(cell: Cell, x: Tensor, weights: Tensor, operations: list[str]) -> Tensor:
    """Eq. 1 for one part, term by term; `weights` is (E, O), the operations are tested on their own."""
    hidden, edge = [x], 0
    for node in range(1, len(cell.terms) + 1):
        hidden.append(torch.zeros_like(x))
        for source in range(node):
            for name, operation in cell.edges[edge].items():
                out = operation(hidden[source], torch.ones(1, dtype=x.dtype))
                hidden[node] = hidden[node] + weights[edge, operations.index(name)] * out
            edge += 1
    return F.conv2d(torch.cat(hidden[1:], dim=1), cell.output.weight, cell.output.bias)


def literal_fabric(fabrics: NeuralFabrics, table: Table, inputs: Mapping[int, Tensor]) -> dict:
    """Eq. 2, cell by cell as `table` wires them, for a fabric of one part."""
    rules, part = fabrics.rules, fabrics.part_names[0]
    alpha, beta = fabrics.alpha[part], fabrics.beta[part]
    before = min(layer for layer, _ in table) - 1
    maps = {(before, scale): x for scale, x in inputs.items()}
    for index, ((layer, scale), candidates) in enumerate(table.items()):
        cell = fabrics.cells[f"layer{layer}_scale{scale}"]
        weights = torch.exp(beta[index]) / torch.exp(beta[index]).sum()
        mixing = torch.exp(alpha[index] if fabrics.theta.alpha_per_cell else alpha)
        mixing = mixing / mixing.sum(-1, keepdim=True)
        if rules.gain == "candidates":
            weights, mixing = 3 * weights, len(fabrics.theta.operations) * mixing
        mixture = torch.zeros(())
        for weight, place, (source, kind) in zip(weights, ("finer", "same", "coarser"), candidates, strict=True):
            x = maps[layer - 1, source]
            if kind != "identity":
                shared = rules.stem_connections == "shared" and layer == 1 and scale == 8
                transforms = cell.transforms
                module = next(iter(transforms.values())) if shared else transforms[place]
                x = literal_transform(kind, module, x, rules)
            mixture = mixture + weight * x
        if rules.rectify == "sum":
            mixture = F.relu(mixture)
        maps[layer, scale] = literal_cell(cell.cell, mixture, mixing, list(fabrics.theta.operations))
    return {scale: x for (layer, scale), x in maps.items() if layer == max(la for la, _ in table)}


# The presets, and each rule of the second by itself.
RULES = {"paper": PAPER, "reference": POSENFS}
RULES |= {rule.name: replace(PAPER, **{rule.name: getattr(POSENFS, rule.name)}) for rule in fields(FabricRules)}


def fabric_on_random_maps(kind: str, **arguments) -> tuple[NeuralFabrics, Table, dict[int, Tensor]]:
    if kind == "subnetwork":
        fabrics = NeuralFabrics(layers=6, last_layers=3, channels=1, **arguments)
        inputs = {s: torch.randn(2, s, 64 // s, 96 // s).double() for s in SCALES}
    else:
        arguments["operations"] = BACKBONE_OPERATIONS
        fabrics = NeuralFabrics(layers=7, first_layers=4, input_scales=(4,), channels=1, **arguments)
        inputs = {4: torch.randn(2, 4, 16, 24).double()}
    fabrics = fabrics.double()
    randomise(fabrics)
    return fabrics, SUBNETWORK if kind == "subnetwork" else BACKBONE, inputs


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("kind", ["subnetwork", "backbone"])
def test_a_fabric_is_equation_two(kind: str, rules: FabricRules, training: bool) -> None:
    torch.manual_seed(0)
    # In evaluation with an alpha for each cell.
    options = {"nodes": 1} if training else {"nodes": 2, "alpha_per_cell": True}
    fabrics, table, inputs = fabric_on_random_maps(kind, rules=rules, **options)
    fabrics.train(training)
    expected = literal_fabric(fabrics, table, inputs)
    out = fabrics(inputs)
    assert list(out) == list(expected)
    for scale, x in out.items():
        torch.testing.assert_close(x, expected[scale])


def test_relaxations_are_for_training_alone() -> None:
    fabrics = NeuralFabrics(last_layers=3, channels=1)
    fabrics.relaxation = torch.zeros_like
    assert not any(weights.any() for weights in fabrics.mixing_weights())
    assert all(weights.any() for weights in fabrics.eval().mixing_weights())


class WithCounter(Operation):
    """PyTorch's batch norm, of whose counter no part has a share."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(parts * channels)


def test_an_operation_whose_parts_share_a_tensor_is_refused() -> None:
    operations = {"zero": None, "mine": WithCounter}
    NeuralFabrics(part_names=("whole",), channels=2, operations=operations)
    with pytest.raises(PnfsError, match=r"mine\.norm\.num"):
        NeuralFabrics(part_names=("upper", "lower"), channels=2, operations=operations)

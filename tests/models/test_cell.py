"""The cell against a literal re-computation of Eq. 1."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pnfs.errors import PnfsError
from pnfs.models.cell import Cell, cell_edges
from pnfs.models.operations import BACKBONE_OPERATIONS, Operation, Skip
from tiny import randomise_statistics

CHANNELS = 3


class Tripling(Operation):
    """Three times the input; nothing to learn."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return 3 * weight.item() * x


def reads_out_all_nodes(nodes: int, operations: dict) -> Cell:
    """A cell with one channel whose output is h_1 + 1000 h_2 + 1000000 h_3."""
    cell = Cell(1, 1, nodes, operations).double()
    cell.output.weight.data.copy_(torch.tensor([1.0, 1e3, 1e6])[:nodes].view(1, nodes, 1, 1))
    assert cell.output.bias is not None
    cell.output.bias.data.zero_()
    return cell


def test_rows_of_weights_belong_to_edges_and_columns_to_operations() -> None:
    assert cell_edges(3) == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    cell = reads_out_all_nodes(3, {"skip": Skip})
    weights = torch.tensor([2.0, 3, 5, 7, 11, 13]).double().view(1, 6, 1)
    first, second = 2, 3 + 5 * 2
    third = 7 + 11 * first + 13 * second
    out = cell(torch.ones(1, 1, 1, 1).double(), weights)
    assert out.item() == first + 1e3 * second + 1e6 * third
    cell = reads_out_all_nodes(2, {"skip": Skip, "zero": None, "tripling": Tripling})
    weights = torch.tensor([[[1.0, 100, 2], [0, 50, 1], [4, 7, 0]]]).double()
    first = 1 + 3 * 2
    out = cell(torch.ones(1, 1, 1, 1).double(), weights)
    assert out.item() == first + 1e3 * (3 * 1 + 4 * first)


def literal_cell(cell: Cell, x: Tensor, weights: Tensor) -> Tensor:
    """Eq. 1 for one part, term by term; `weights` is (E, O)."""
    hidden = [x]
    edge = 0
    for node in range(1, len(cell.terms) + 1):
        total = torch.zeros_like(x)
        for source in range(node):
            for name, operation in cell.edges[edge].items():
                column = list(BACKBONE_OPERATIONS).index(name)
                out = operation(hidden[source], torch.ones(1, dtype=x.dtype))
                total = total + weights[edge, column] * out
            edge += 1
        hidden.append(total)
    return F.conv2d(torch.cat(hidden[1:], dim=1), cell.output.weight, cell.output.bias)


def single_part(cell: Cell, part: int, parts: int) -> Cell:
    """A cell of one part with the weights and statistics of part `part`."""
    single = Cell(1, CHANNELS, len(cell.terms), BACKBONE_OPERATIONS).double().train(cell.training)
    share = {name: value.chunk(parts)[part] for name, value in cell.state_dict().items()}
    single.load_state_dict(copy.deepcopy(share))
    return single


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_a_cell_is_equation_one(nodes, training, parts) -> None:
    torch.manual_seed(nodes)
    cell = Cell(parts, CHANNELS, nodes, BACKBONE_OPERATIONS).double().train(training)
    randomise_statistics(cell)
    singles = [single_part(cell, part, parts) for part in range(parts)]
    edges = nodes * (nodes + 1) // 2
    weights = torch.randn(parts, edges, len(BACKBONE_OPERATIONS)).double().softmax(-1)
    x = torch.randn(2, parts * CHANNELS, 5, 4).double()

    out = cell(x, weights)

    inputs = x.split(CHANNELS, dim=1)
    expected = [literal_cell(singles[p], inputs[p], weights[p]) for p in range(parts)]
    torch.testing.assert_close(out, torch.cat(expected, dim=1))
    for name, value in cell.state_dict().items():
        theirs = torch.cat([single.state_dict()[name] for single in singles])
        torch.testing.assert_close(value, theirs, msg=f"{name} after the pass")


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_cell_of_zeros_gives_its_bias(nodes: int) -> None:
    cell = Cell(1, CHANNELS, nodes, {"zero": None})
    x = torch.full((2, CHANNELS, 3, 3), 7.0)
    out = cell(x, torch.ones(1, nodes * (nodes + 1) // 2, 1))
    assert cell.output.bias is not None
    torch.testing.assert_close(out, cell.output.bias.view(1, -1, 1, 1).expand_as(out))
    with pytest.raises(PnfsError, match="H=2 has 3 edges, 2 are listed"):
        Cell(1, CHANNELS, 2, BACKBONE_OPERATIONS, [["skip"], []])

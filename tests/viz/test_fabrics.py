"""Diagrams and curves: what is drawn against weights, wiring and numbers worked out by hand."""

import math
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.patches import FancyArrowPatch, Rectangle

from pnfs.data.images import DataError
from pnfs.errors import PnfsError
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import describe_architecture
from pnfs.models.operations import BACKBONE_OPERATIONS, SUBNETWORK_OPERATIONS
from pnfs.viz.curves import plot_curves, plot_mean, plot_seeds, plot_trajectory, read_metrics
from pnfs.viz.fabrics import draw_fabrics
from pnfs.viz.style import new_figure, operation_colours
from tiny import fabric_backbone, fabric_network

SIDES = ("left", "right")
PARTS = {
    "head": ["neck", "head_top"],
    "upper_limb": [f"{s}_{joint}" for s in SIDES for joint in ("shoulder", "elbow", "wrist")],
    "lower_limb": [f"{s}_{joint}" for s in SIDES for joint in ("hip", "knee", "ankle")],
}
OFF = -math.inf


def build(parts=PARTS, **options) -> PoseFabricNetwork:
    network = fabric_network(parts, backbone=fabric_backbone(channels=2), skeleton="lsp", channels=2, **options)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.architecture_parameters().values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def drawn(network: PoseFabricNetwork, **options):
    return draw_fabrics(describe_architecture(network), **options)


def by_gid(figure, kind, start: str) -> dict:
    """Artists of a kind by what follows `start` in their gid."""
    found = [a for a in figure.findobj(kind) if (a.get_gid() or "").startswith(start)]
    named = {artist.get_gid().removeprefix(start): artist for artist in found}
    assert len(named) == len(found)
    return named


def softmax(logits) -> np.ndarray:
    exponentials = np.exp(logits.detach().double().numpy())
    return exponentials / exponentials.sum(-1, keepdims=True)


def test_arrows_grow_with_beta_and_point_the_way_of_their_transform():
    """L=6, n=3: cells 3+2+1; a cell at 1/4 has two inputs, since its same scale stands in twice."""
    network = build()
    found = by_gid(drawn(network), FancyArrowPatch, "beta/head/")
    assert set(found) == {
        "layer4_scale4/4/identity", "layer4_scale4/8/up",
        "layer4_scale8/4/down", "layer4_scale8/8/identity", "layer4_scale8/16/up",
        "layer4_scale16/8/down", "layer4_scale16/16/identity", "layer4_scale16/32/up",
        "layer5_scale4/4/identity", "layer5_scale4/8/up",
        "layer5_scale8/4/down", "layer5_scale8/8/identity", "layer5_scale8/16/up",
        "layer6_scale4/4/identity", "layer6_scale4/8/up",
    }  # fmt: skip
    weights = softmax(network.fabrics.beta["head"])
    expected = {
        "layer4_scale4/4/identity": weights[0, 0] + weights[0, 1], "layer4_scale4/8/up": weights[0, 2],
        "layer4_scale8/4/down": weights[1, 0], "layer4_scale16/32/up": weights[2, 2],
    }  # fmt: skip
    order = [found[name] for name in sorted(expected, key=expected.__getitem__)]
    assert np.all(np.diff([arrow.get_linewidth() for arrow in order]) > 0)
    assert np.all(np.diff([arrow.get_alpha() for arrow in order]) > 0)
    for name, arrow in found.items():
        across, rise = np.diff(arrow._posA_posB, axis=0)[0]
        assert across > 0, name
        assert np.sign(rise) == {"down": -1, "identity": 0, "up": 1}[name.split("/")[-1]], name


@pytest.mark.parametrize("per_cell", [False, True])
def test_bars_are_the_softmax_of_alpha(per_cell):
    network = build(nodes=2, alpha_per_cell=per_cell)
    figure, table = drawn(network), softmax(network.fabrics.alpha["head"])
    for edge, weights in zip(("0-1", "0-2", "1-2"), table.mean(0) if per_cell else table, strict=True):
        segments = by_gid(figure, Rectangle, f"alpha/head/{edge}/")
        assert list(segments) == list(SUBNETWORK_OPERATIONS)
        lengths = np.array([segment.get_width() for segment in segments.values()])
        np.testing.assert_allclose(lengths / lengths.sum(), weights, atol=1e-6)
        starts = [segment.get_x() for segment in segments.values()]
        np.testing.assert_allclose(np.diff(starts), lengths[:-1])


def test_svg_holds_the_names_as_text_and_is_reproducible(tmp_path):
    network, paths = build(), [tmp_path / "deeper" / name for name in ("one.svg", "two.svg")]
    for path in paths:
        drawn(network, out_path=path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    nodes = list(ElementTree.parse(paths[0]).getroot().iter())
    texts = " ".join("".join(node.itertext()) for node in nodes if node.tag.endswith("text"))
    joints = {joint for joints in PARTS.values() for joint in joints}
    assert [name for name in (*PARTS, *SUBNETWORK_OPERATIONS, *joints) if name not in texts] == []
    assert {"beta/head/layer4_scale8/16/up", "alpha/head/0-1/skip"} <= {node.get("id") for node in nodes}
    # The paper's operations have the same colours among others.
    paper, many = (operation_colours([*own, *BACKBONE_OPERATIONS]) for own in ((), map(str, range(30))))
    assert len(set(many.values())) == 36
    assert {name: many[name] for name in paper} == paper


def test_undefined_weights_are_refused():
    network = build()
    network.architecture_parameters()["lower_limb/beta"].data[3] = OFF
    with pytest.raises(PnfsError, match="lower_limb/beta"):
        drawn(network)


def test_what_a_derived_architecture_does_without_is_dashed():
    """Layers 4 to 6: the last cell reads 1/4 alone, layer 5's cell at 1/4 reads 1/4 and 1/8."""
    network = build(nodes=2)
    free = [0.0, 0.0, 0.0]
    logits = {
        # Rows: layer 4 at 1/4, 1/8, 1/16; layer 5 at 1/4, 1/8; layer 6 at 1/4.
        "head/beta": [free, [OFF, 0, OFF], free, free, free, [0, 0, OFF]],
        # Nothing but zero arrives at node 1, so that 1→2 carries nothing; 0→2 has lost an operation.
        "head/alpha": [[0, OFF, OFF, OFF], [0, 0, OFF, 0], [0, 0, 0, 0]],
    }
    for name, rows in logits.items():
        network.architecture_parameters()[name].data.copy_(torch.tensor(rows))
    figure = drawn(network)
    dead = {gid for artist in figure.findobj() if (gid := artist.get_gid() or "").startswith("dead")}
    names = ("layer4_scale16", "layer5_scale8", "input16", "input32", "head/0-1", "head/1-2")
    assert dead == {f"dead/{name}" for name in names}
    found = by_gid(figure, FancyArrowPatch, "beta/head/")
    dashed = {name for name, arrow in found.items() if arrow.get_linestyle() not in ("-", "solid")}
    assert dashed == {
        "layer4_scale8/4/down", "layer4_scale8/16/up", "layer4_scale16/8/down",
        "layer4_scale16/16/identity", "layer4_scale16/32/up", "layer5_scale8/4/down",
        "layer5_scale8/8/identity", "layer5_scale8/16/up", "layer6_scale4/8/up",
    }  # fmt: skip
    for one, noted in ((figure, True), (drawn(build()), False)):
        legend = [text.get_text() for text in one.legends[0].get_texts()]
        assert ("not used" in legend) == noted


def history_of(network: PoseFabricNetwork, length: int) -> list:
    found = []
    for _ in range(length):
        found.append(describe_architecture(network))
        for parameter in network.architecture_parameters().values():
            parameter.data *= 1.3
    return found


def test_trajectory_draws_the_mean_and_each_row():
    history = history_of(build(nodes=2), 5)
    figure = plot_trajectory(history, epochs=[0, 2, 4, 6, 8])
    lines = {line.get_gid(): line for axes in figure.axes for line in axes.lines}
    parts = [entry.subnetworks.parts for entry in history]
    mean = np.mean([found["head"].beta_weights[:, 0] for found in parts], axis=1)
    np.testing.assert_allclose(lines["head/beta/finer"].get_xydata(), np.stack([[0, 2, 4, 6, 8], mean], axis=1))
    sep = np.array([found["upper_limb"].alpha_weights[0] for found in parts])[:, :, 2].mean(1)
    np.testing.assert_allclose(lines["upper_limb/alpha/sep_conv_3x3"].get_ydata(), sep)
    panel = next(a for a in figure.axes if any(x.get_gid() == "head/beta/same" for x in a.lines))
    # Six cells and the mean for each of three neighbours, and the uniform weight.
    assert len(panel.lines) == 3 * (6 + 1) + 1
    assert "backbone/alpha/max_pool_3x3" in lines
    for other in (build(nodes=2, alpha_per_cell=True), build()):
        with pytest.raises(PnfsError):
            plot_trajectory(history + history_of(other, 1))


METRICS = """\
epoch,lr-Adam,step,train/loss_epoch,train/loss_step,val/empty,val/loss,val/score
,0.001,0,,,,,
0,,9,,0.02,,,
0,,19,,0.018,,,
0,,19,,,,0.019,9.5
0,,19,0.0195,,,,
,0.0005,20,,,,,
1,,39,,,,0.012,31.25
1,,39,0.0145,,,,
"""


@pytest.fixture
def metrics_csv(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)
    return path


def test_each_metric_has_its_own_rows(metrics_csv):
    expected = {
        # A row without an epoch counts to the next.
        "lr-Adam": ([0, 1], [0.001, 0.0005]),
        "train/loss": ([0, 1], [0.0195, 0.0145]),
        "train/loss_step": ([0], [0.018]),
        "val/loss": ([0, 1], [0.019, 0.012]),
        "val/score": ([0, 1], [9.5, 31.25]),
    }
    for cut in ("", "2,,49,,0.0"):
        metrics_csv.write_text(METRICS + cut)
        found = read_metrics(metrics_csv)
        assert {name: (list(c.index), list(c)) for name, c in found.items()} == expected
    assert list(read_metrics(metrics_csv, ["val/loss", "other"])) == ["val/loss"]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [("0.018", "O.018", "O.018"), ("0.018,,,", "0.018,,,,,,", "line 4"), ("epoch,", "age,", "epoch"),
     ("lr-Adam", "\xff", "utf-8"), (METRICS, "", "epoch")],
)  # fmt: skip
def test_damaged_files_are_named(metrics_csv, old, new, named):
    metrics_csv.write_bytes(METRICS.replace(old, new).encode("latin-1"))
    with pytest.raises(DataError, match=f"{metrics_csv}.*{named}"):
        read_metrics(metrics_csv)


def test_curves_name_the_best_epochs(metrics_csv, tmp_path):
    plot_curves(metrics_csv, tmp_path / "new" / "curves.svg")
    text = (tmp_path / "new/curves.svg").read_text()
    for label in (
        "train/loss: best 0.0145, epoch 1",
        "val/loss: best 0.012, epoch 1",
        "val/score: best 31.2, epoch 1",
    ):
        assert f">{label}<" in text


@pytest.mark.parametrize(("seeds", "dashed"), [([[4, 2, 1], [2, 1]], False), ([[4, 2, 1]], True)])
def test_seeds_are_a_mean_with_a_range_and_a_single_one_is_dashed(seeds, dashed) -> None:
    axes = new_figure(3, 3).subplots()
    mean = plot_seeds(axes, [pd.Series(each, dtype=float) for each in seeds], "blue", "d=8")
    # Over the epochs that all seeds have.
    assert list(mean) == ([4, 2, 1] if dashed else [3, 1.5])
    (line,) = axes.lines
    assert (line.get_linestyle() == "--", len(axes.collections)) == (dashed, 0 if dashed else 1)
    for deviation in (None, 1.0):
        bar = plot_mean(axes, 1.0, 50.0, ("#0072b2", "o"), yerr=deviation)[0]
        assert (bar.get_markerfacecolor() == "white") == (deviation is None)

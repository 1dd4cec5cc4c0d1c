"""Pictures of architectures: what is drawn against weights and wiring worked out by hand."""

import math
from xml.etree import ElementTree

import cv2
import matplotlib.pyplot
import numpy as np
import pytest
import torch
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.text import Text

from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import Architecture, describe_architecture
from pnfs.models.backbones import MobileNetV2
from pnfs.models.operations import BACKBONE_OPERATIONS, SUBNETWORK_OPERATIONS
from pnfs.viz.fabrics import draw_fabrics
from pnfs.viz.style import operation_colours
from pnfs.viz.trajectory import plot_trajectory
from tiny import fabric_backbone, fabric_network

SIDES = ("left", "right")
PARTS = {
    "head": ["neck", "head_top"],
    "upper_limb": [f"{s}_{joint}" for s in SIDES for joint in ("shoulder", "elbow", "wrist")],
    "lower_limb": [f"{s}_{joint}" for s in SIDES for joint in ("hip", "knee", "ankle")],
}


def build(backbone=None, parts=PARTS, **options) -> PoseFabricNetwork:
    network = fabric_network(
        backbone=backbone or MobileNetV2(weights="none"),
        skeleton="lsp",
        parts=parts,
        channels=2,
        **options,
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in network.architecture_parameters().values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def arrows_of(figure, part: str) -> dict[str, FancyArrowPatch]:
    """Arrows of a part by "cell/source scale/transform"."""
    start, arrows = f"beta/{part}/", figure.findobj(FancyArrowPatch)
    found = [a for a in arrows if (a.get_gid() or "").startswith(start)]
    named = {arrow.get_gid().removeprefix(start): arrow for arrow in found}
    assert len(named) == len(found)
    return named


def gids_of(figure, kind: str) -> set[str]:
    """What has a gid of this kind, without it."""
    gids = [artist.get_gid() or "" for artist in figure.findobj()]
    return {gid.removeprefix(f"{kind}/") for gid in gids if gid.startswith(f"{kind}/")}


def ends(arrow: FancyArrowPatch) -> np.ndarray:
    """Where it starts and where its tip is: ((x, y), (x, y))."""
    return np.array(arrow._posA_posB)


def segments_of(figure, owner: str) -> dict[str, Rectangle]:
    """Segments of a bar by operation, e.g. of "head/all/0-1"."""
    start = f"alpha/{owner}/"
    return {
        patch.get_gid().removeprefix(start): patch
        for patch in figure.findobj(Rectangle)
        if (patch.get_gid() or "").startswith(start)
    }


def numpy_softmax(logits) -> np.ndarray:
    exponentials = np.exp(logits.detach().double().numpy())
    return exponentials / exponentials.sum(-1, keepdims=True)


def test_arrows_of_the_basic_subnetwork():
    """L=6, n=3: cells 3+2+1; a cell at 1/4 has two inputs, since its same scale stands in twice."""
    figure = draw_fabrics(describe_architecture(build()))
    assert set(arrows_of(figure, "head")) == {
        "layer4_scale4/4/identity", "layer4_scale4/8/up",
        "layer4_scale8/4/down", "layer4_scale8/8/identity", "layer4_scale8/16/up",
        "layer4_scale16/8/down", "layer4_scale16/16/identity", "layer4_scale16/32/up",
        "layer5_scale4/4/identity", "layer5_scale4/8/up",
        "layer5_scale8/4/down", "layer5_scale8/8/identity", "layer5_scale8/16/up",
        "layer6_scale4/4/identity", "layer6_scale4/8/up",
    }  # fmt: skip
    assert all(set(arrows_of(figure, part)) == set(arrows_of(figure, "head")) for part in PARTS)


def test_arrows_of_a_backbone_merge_what_reads_the_same_map():
    architecture = describe_architecture(build(fabric_backbone(first_layers=3, channels=2)))
    figure = draw_fabrics(architecture, fabrics="backbone")
    found = arrows_of(figure, "backbone")
    # Layer 1: 1/4 and 1/8 read the stem; layers 2 and 3 each open one scale, read once.
    assert len(found) == (1 + 1) + (2 + 2 + 1) + (2 + 3 + 2 + 1)
    whole = [
        "layer1_scale4/4/identity",
        "layer1_scale8/4/down",
        "layer2_scale16/8/down",
        "layer3_scale32/16/down",
    ]
    widths = {name: arrow.get_linewidth() for name, arrow in found.items()}
    assert [widths[name] for name in whole] == pytest.approx([max(widths.values())] * 4)
    assert [found[name].get_alpha() for name in whole] == pytest.approx([1.0] * 4)


def test_width_and_opacity_grow_with_beta():
    network = build()
    figure = draw_fabrics(describe_architecture(network))
    beta = network.fabrics.beta["head"]
    weights = numpy_softmax(beta)
    expected = {
        "layer4_scale4/4/identity": weights[0, 0] + weights[0, 1],
        "layer4_scale4/8/up": weights[0, 2],
        "layer4_scale8/4/down": weights[1, 0],
        "layer4_scale8/8/identity": weights[1, 1],
        "layer4_scale16/32/up": weights[2, 2],
        "layer5_scale8/4/down": weights[4, 0],
        "layer6_scale4/4/identity": weights[5, 0] + weights[5, 1],
        "layer6_scale4/8/up": weights[5, 2],
    }
    found = arrows_of(figure, "head")
    order = sorted(expected, key=expected.__getitem__)
    assert np.all(np.diff([found[name].get_linewidth() for name in order]) > 0)
    assert np.all(np.diff([found[name].get_alpha() for name in order]) > 0)


def test_arrows_point_the_way_of_their_transform():
    found = arrows_of(draw_fabrics(describe_architecture(build())), "head")
    for name, arrow in found.items():
        across, rise = np.diff(ends(arrow), axis=0)[0]
        assert across > 0, name
        assert np.sign(rise) == {"down": -1, "identity": 0, "up": 1}[name.split("/")[-1]], name


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_bars_are_the_softmax_of_alpha(nodes):
    network = build(nodes=nodes)
    figure = draw_fabrics(describe_architecture(network))
    edges = ["0-1", "0-2", "1-2", "0-3", "1-3", "2-3"][: nodes * (nodes + 1) // 2]
    for part in PARTS:
        weights = numpy_softmax(network.fabrics.alpha[part])
        for edge, row in zip(edges, weights, strict=True):
            check_bar(segments_of(figure, f"{part}/all/{edge}"), row)


def test_bars_stand_inside_their_cells_where_alpha_is_per_cell():
    network = build(nodes=2, alpha_per_cell=True)
    figure = draw_fabrics(describe_architecture(network))
    figure.draw_without_rendering()
    fabrics = network.fabrics
    weights = numpy_softmax(fabrics.alpha["upper_limb"])
    incoming = arrows_of(figure, "upper_limb")
    for cell, table in zip(fabrics.theta.cells, weights, strict=True):
        arrow = next(a for n, a in incoming.items() if n.startswith(cell.name + "/"))
        tip = arrow.axes.transData.transform(ends(arrow)[1])
        for edge, row in zip(("0-1", "0-2", "1-2"), table, strict=True):
            segments = segments_of(figure, f"upper_limb/{cell.name}/{edge}")
            check_bar(segments, row)
            left = segments["zero"].get_window_extent().x0
            assert tip[0] < left < tip[0] + 100
    assert not segments_of(figure, "upper_limb/all/0-1")


def check_bar(segments: dict[str, Rectangle], weights: np.ndarray) -> None:
    assert list(segments) == list(SUBNETWORK_OPERATIONS)
    lengths = np.array([segment.get_width() for segment in segments.values()])
    np.testing.assert_allclose(lengths / lengths.sum(), weights, atol=1e-6)
    starts = [segment.get_x() for segment in segments.values()]
    np.testing.assert_allclose(np.diff(starts), lengths[:-1])


def test_operations_keep_their_colours():
    paper = operation_colours(BACKBONE_OPERATIONS)
    many = operation_colours([*(f"mine_{n}" for n in range(30)), *BACKBONE_OPERATIONS])
    assert len(set(many.values())) == 36
    assert {name: many[name] for name in paper} == paper
    assert operation_colours(["skip", "other"])["other"] == many["mine_0"]


def test_svg_holds_the_names_as_text_and_is_reproducible(tmp_path):
    architecture = describe_architecture(build())
    for name in ("one.svg", "two.svg"):
        draw_fabrics(architecture, tmp_path / "deeper" / name)
    path = tmp_path / "deeper" / "one.svg"
    assert path.read_bytes() == (tmp_path / "deeper" / "two.svg").read_bytes()
    root = ElementTree.parse(path).getroot()
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    everything = " ".join(texts)
    assert any("layers 4" in text for text in texts)
    for part, joints in PARTS.items():
        assert part in texts
        assert all(joint in everything for joint in joints)
    assert all(operation in texts for operation in SUBNETWORK_OPERATIONS)
    ids = {node.get("id") for node in root.iter()}
    assert {"beta/head/layer4_scale8/16/up", "alpha/head/all/0-1/skip"} <= ids


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (1, {}),
        (8, {"nodes": 3}),
        (3, {"nodes": 3, "alpha_per_cell": True}),
        (2, {"layers": 10, "last_layers": 10}),
    ],
)
def test_texts_stay_apart_and_inside(count, options):
    everyone = [joint for joints in PARTS.values() for joint in joints]
    names = ["left_lower_arm_and_hand", "b", "c", "d", "e", "f", "g", "right_lower_leg_and_foot"]
    parts = dict.fromkeys(names[:count], everyone)
    figure = draw_fabrics(describe_architecture(build(parts=parts, **options)))
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    # Ticks that are not drawn have texts, too.
    texts = [t for t in texts if t.get_window_extent(renderer).width > 0]
    boxes = np.array([t.get_window_extent(renderer).extents for t in texts if t.get_text()])
    width, height = figure.canvas.get_width_height()
    assert boxes[:, :2].min() >= 0
    assert boxes[:, 2].max() <= width
    assert boxes[:, 3].max() <= height
    # Fonts leave a pixel or two above and below what they draw.
    boxes += [2, 2, -2, -2]
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlapping = np.triu((high > low).all(-1), 1)
    shown = [t.get_text() for t in texts if t.get_text()]
    assert not [(shown[i], shown[j]) for i, j in np.argwhere(overlapping)]


def test_png_and_no_global_state(tmp_path):
    before = dict(matplotlib.rcParams)
    draw_fabrics(describe_architecture(build()), tmp_path / "found.png")
    assert not matplotlib.pyplot.get_fignums()
    assert dict(matplotlib.rcParams) == before
    image = cv2.imread(str(tmp_path / "found.png"))
    assert image is not None
    assert image.std() > 5


@pytest.mark.parametrize(
    ("fabrics", "name"), [("backbone", "a.png"), ("body", "a.png"), ("subnetworks", "a.jpg")]
)
def test_what_cannot_be_drawn_is_refused(tmp_path, fabrics, name):
    with pytest.raises(ValueError):  # noqa: PT011
        draw_fabrics(describe_architecture(build()), tmp_path / name, fabrics=fabrics)
    assert not list(tmp_path.iterdir())


def test_undefined_weights_are_named():
    network = build()
    network.architecture_parameters()["lower_limb/beta"].data[3] = -math.inf
    with pytest.raises(ValueError, match="lower_limb/beta"):
        draw_fabrics(describe_architecture(network))


def set_logits(network: PoseFabricNetwork, name: str, rows: list[list[float]]) -> None:
    network.architecture_parameters()[name].data.copy_(torch.tensor(rows))


def test_what_a_derived_architecture_does_without_is_dashed():
    """Layers 4 to 6: the last cell reads 1/4 alone, layer 5's cell at 1/4 reads 1/4 and 1/8."""
    off = -math.inf
    network = build(nodes=2)
    free = [0.0, 0.0, 0.0]
    # Rows: layer 4 at 1/4, 1/8, 1/16; layer 5 at 1/4, 1/8; layer 6 at 1/4.
    set_logits(network, "head/beta", [free, [off, 0, off], free, free, free, [0, 0, off]])
    # Nothing but zero arrives at node 1, so that 1→2 carries nothing; 0→2 has lost an operation.
    set_logits(network, "head/alpha", [[0, off, off, off], [0, 0, off, 0], [0, 0, 0, 0]])
    figure = draw_fabrics(describe_architecture(network))
    assert gids_of(figure, "dead") == {
        "layer4_scale16", "layer5_scale8", "input16", "input32", "head/all/0-1", "head/all/1-2",
    }  # fmt: skip
    assert gids_of(figure, "pruned") == {"head/all/0-1", "head/all/0-2"}
    found = arrows_of(figure, "head")
    dashed = {name for name, arrow in found.items() if arrow.get_linestyle() not in ("-", "solid")}
    assert dashed == {
        "layer4_scale8/4/down", "layer4_scale8/16/up", "layer4_scale16/8/down",
        "layer4_scale16/16/identity", "layer4_scale16/32/up", "layer5_scale8/4/down",
        "layer5_scale8/8/identity", "layer5_scale8/16/up", "layer6_scale4/8/up",
    }  # fmt: skip
    assert "not used" in [text.get_text() for text in figure.legends[0].get_texts()]
    whole = draw_fabrics(describe_architecture(build()))
    assert "not used" not in [text.get_text() for text in whole.legends[0].get_texts()]


def test_backbone_is_dead_where_no_subnetwork_reads_it():
    network = build(fabric_backbone(first_layers=3, channels=2))
    off = -math.inf
    for part in PARTS:
        beta = network.architecture_parameters()[f"{part}/beta"]
        beta.data.fill_(off)
        beta.data[:, 1] = 0.0  # The same scale alone: only the map at 1/4 is read.
    figure = draw_fabrics(describe_architecture(network), fabrics="backbone")
    # Of the last layer the cell at 1/4 alone is read, which reads 1/4 and 1/8, and those 1/16.
    dead = {"layer3_scale8", "layer3_scale16", "layer3_scale32", "layer2_scale16"}
    assert gids_of(figure, "dead") == dead


def history_of(network: PoseFabricNetwork, length: int) -> list[Architecture]:
    found = []
    for _ in range(length):
        found.append(describe_architecture(network))
        for parameter in network.architecture_parameters().values():
            parameter.data *= 1.3
    return found


def test_trajectory_draws_the_mean_and_each_row(tmp_path):
    network = build(fabric_backbone(first_layers=3, channels=2), nodes=2)
    history = history_of(network, 5)
    figure = plot_trajectory(history, tmp_path / "moves.svg", epochs=[0, 2, 4, 6, 8])
    lines = {line.get_gid(): line for axes in figure.axes for line in axes.lines}
    parts = [entry.subnetworks.parts for entry in history]
    mean = np.mean([found["head"].beta_weights[:, 0] for found in parts], axis=1)
    np.testing.assert_allclose(lines["head/beta/finer"].get_ydata(), mean)
    np.testing.assert_allclose(lines["head/beta/finer"].get_xdata(), [0, 2, 4, 6, 8])
    sep = [found["upper_limb"].alpha_weights[0] for found in parts]
    np.testing.assert_allclose(
        lines["upper_limb/alpha/sep_conv_3x3"].get_ydata(), np.array(sep)[:, :, 2].mean(1)
    )
    panel = next(a for a in figure.axes if any(x.get_gid() == "head/beta/same" for x in a.lines))
    # Six cells and the mean for each of three neighbours, and the uniform weight.
    assert len(panel.lines) == 3 * (6 + 1) + 1
    root = ElementTree.parse(tmp_path / "moves.svg").getroot()
    texts = {"".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"backbone", *PARTS, "α max_pool_3x3", "β coarser"} <= texts


def test_trajectory_of_still_weights_keeps_a_sensible_axis():
    network = build()
    for parameter in network.architecture_parameters().values():
        parameter.data.zero_()
    figure = plot_trajectory([describe_architecture(network)])
    low, high = figure.axes[0].get_ylim()
    assert low <= 0.23 < 0.27 <= high


def test_trajectory_needs_one_shape():
    history = history_of(build(), 2)
    other = history_of(build(nodes=2), 1)
    more = history_of(build(alpha_per_cell=True), 1)
    for entries, epochs in (
        ([], None),
        (history, [1]),
        (history + other, None),
        (history + more, None),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            plot_trajectory(entries, epochs=epochs)

"""Pictures of continuous architectures: which inputs and operations a search preferred, part by part."""

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrow, FancyBboxPatch, Patch, Rectangle
from scipy.special import entr

from pnfs.models.architecture import (
    Architecture,
    FabricArchitecture,
    PartArchitecture,
)
from pnfs.models.cell import cell_edges
from pnfs.models.wiring import NEIGHBOURS, CellWiring

# Colours of Okabe and Ito, which colour-blind readers can tell apart.
_OPERATION_COLOURS = {
    "zero": "#c8c8c8",
    "skip": "#e69f00",
    "sep_conv_3x3": "#0072b2",
    "dil_conv_3x3": "#56b4e9",
    "avg_pool_3x3": "#009e73",
    "max_pool_3x3": "#cc79a7",
}
_FURTHER_COLOURS = ("#d55e00", "#f0e442", "#000000", "#7f5f3f", "#8a6fdf")
_NEIGHBOUR_COLOURS = {"finer": "#d55e00", "same": "#4d4d4d", "coarser": "#7b3294"}
_INK = "#2e3440"
_FAINT = "#6b7280"

# Lengths below are in inches: every panel's axes have one unit to the inch, so that text, which
# keeps its size, finds the same room in each.
_THICKEST_ARROW = 0.12
_LINE = 0.135
_EDGE_PITCH = 0.25
_MARGIN = 0.2
_MAX_FIGURE_WIDTH = 24.0
_MAX_BAR_WIDTH = 4.0
_PANELS_A_ROW = 4


@dataclass(frozen=True)
class _Geometry:
    """Where things stand in a panel; the same for all parts of a fabric."""

    fabric: FabricArchitecture
    title_lines: int

    @property
    def box(self) -> tuple[float, float]:
        """Width and height of a cell."""
        if not self.fabric.alpha_per_cell:
            return 0.42, 0.36
        edges = len(cell_edges(self.fabric.nodes))
        return 1.25, max(0.36, 0.12 * edges + 0.1)

    @property
    def pitch(self) -> tuple[float, float]:
        """From one column or row of the grid to the next."""
        width, height = self.box
        return width + 0.62, height + 0.38

    @property
    def left(self) -> float:
        return 0.42

    @property
    def columns(self) -> int:
        """The layers and the input."""
        return self.fabric.last_layer - self.fabric.first_layer + 2

    @property
    def width(self) -> float:
        grid = self.left + (self.columns - 1) * self.pitch[0] + self.input_width + 0.12
        return max(grid, 2.6)

    @property
    def input_width(self) -> float:
        return 0.42

    @property
    def header(self) -> float:
        """Title and column labels."""
        return 0.2 + self.title_lines * _LINE + 0.3

    @property
    def footer(self) -> float:
        """alpha's bars, unless they are in the cells, and the line on beta."""
        if self.fabric.alpha_per_cell:
            return 0.3
        return 0.46 + len(cell_edges(self.fabric.nodes)) * _EDGE_PITCH

    @property
    def height(self) -> float:
        rows = len(self.fabric.scales)
        return self.header + rows * self.pitch[1] - (self.pitch[1] - self.box[1]) + self.footer

    def row(self, scale: int) -> float:
        """y of a scale's centre."""
        index = self.fabric.scales.index(scale)
        return self.height - self.header - self.box[1] / 2 - index * self.pitch[1]

    def sides(self, layer: int) -> tuple[float, float]:
        """Left and right edge of a layer's boxes; the input is the layer before the first."""
        step = layer - self.fabric.first_layer
        if step < 0:
            return self.left, self.left + self.input_width
        start = self.left + self.input_width + (self.pitch[0] - self.box[0])
        start += step * self.pitch[0]
        return start, start + self.box[0]


def draw_fabrics(
    architecture: Architecture,
    out_path: str | Path | None = None,
    *,
    fabrics: Literal["subnetworks", "backbone"] = "subnetworks",
    title: str | None = None,
) -> Figure:
    """Draws the P fabrics side by side, each cell in its place on the grid scale x layer (Fig. 3).

    An arrow is an input of a cell; its width and opacity are its weight in softmax(beta). Inputs that
    read the same map through the same kind of transform are one arrow with their summed weight: what
    stands in for a missing neighbour. Bars are softmax(alpha), one bar for each edge (i, j) of a cell,
    below the grid or, with one alpha a cell, inside each cell. Small numbers beside bars are entropies
    in nats.

    Every arrow and every segment of a bar has a gid, which an SVG keeps as its id:
    "beta/<part>/<cell>/<source scale>/<transform>" and "alpha/<part>/<cell or all>/<i>-<j>/<operation>".

    Args:
        architecture: From `describe_architecture` or `architecture_from_json`.
        out_path: File to write, .png or .svg; None to write none.
        fabrics: Which fabrics to draw.
        title: Above the figure; None for a line on Theta.

    Raises:
        ValueError: The backbone is asked for and is no fabric, a softmax is undefined, or the
            suffix is neither .png nor .svg.
    """
    fabric = _choose_fabric(architecture, fabrics)
    panel_columns = _panel_columns(fabric)
    subtitles = [_subtitle(fabric, part) for part in fabric.parts.values()]
    geometry = _Geometry(fabric, max(map(len, subtitles)))
    if title is None:
        title = _theta_line(architecture, fabric, fabrics)
    figure, panels = _figure_with_panels(
        (geometry.width, geometry.height),
        len(fabric.parts),
        panel_columns,
        title,
        fabric.operations,
    )
    source = "stem" if fabrics == "backbone" else "pyramid"
    for axes, (name, part), subtitle in zip(panels, fabric.parts.items(), subtitles, strict=True):
        _draw_title(axes, geometry, name, subtitle)
        _draw_grid(axes, geometry, source)
        _draw_arrows(axes, geometry, name, part)
        _draw_alpha(axes, geometry, name, part)
        _draw_entropies(axes, part)
    _save(figure, out_path)
    return figure


def _choose_fabric(architecture: Architecture, fabrics: str) -> FabricArchitecture:
    if fabrics not in ("subnetworks", "backbone"):
        raise ValueError(f"fabrics={fabrics!r}: there are subnetworks and backbone")
    fabric = architecture.subnetworks if fabrics == "subnetworks" else architecture.backbone
    if fabric is None:
        raise ValueError("the backbone is not a fabric: there is nothing to draw")
    for part, found in fabric.parts.items():
        for name, weights in (("alpha", found.alpha_weights), ("beta", found.beta_weights)):
            if not np.isfinite(weights).all():
                raise ValueError(
                    f"{part}/{name} has a row without finite mixing weights "
                    "(a logit of +inf, or none above -inf)"
                )
    return fabric


def _theta_line(architecture: Architecture, fabric: FabricArchitecture, fabrics: str) -> str:
    return (
        f"{architecture.skeleton} · {fabrics} · layers {fabric.first_layer}–{fabric.last_layer} "
        f"of {fabric.layers} · C={fabric.channels} · H={fabric.nodes}"
    )


# --- the figure ----------------------------------------------------------------------------------


def _panel_columns(fabric: FabricArchitecture) -> int:
    room = int(_MAX_FIGURE_WIDTH / _Geometry(fabric, 1).width)
    return max(1, min(_PANELS_A_ROW, len(fabric.parts), room))


def _figure_with_panels(
    size: tuple[float, float], count: int, columns: int, title: str, operations: Sequence[str]
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of `size` inches, a title above and the legend below."""
    width, height = size
    gap = 0.3
    rows = math.ceil(count / columns)
    total_width = max(columns * width + (columns - 1) * gap + 2 * _MARGIN, 4.4)
    title_lines = _wrap(title, total_width - 2 * _MARGIN, points=10)
    top = _MARGIN + 0.19 * len(title_lines) + 0.1
    legend_columns = min(len(operations) + 1, int((total_width - 2 * _MARGIN) / 1.3))
    bottom = _MARGIN + 0.2 * (math.ceil((len(operations) + 1) / legend_columns) + 1)
    total_height = top + rows * height + (rows - 1) * gap + bottom
    figure = Figure(figsize=(total_width, total_height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    x, y = _MARGIN / total_width, 1 - _MARGIN / total_height
    figure.text(x, y, "\n".join(title_lines), fontsize=10, color=_INK, va="top")
    _draw_legend(figure, operations, legend_columns)
    panels = []
    for index in range(count):
        row, column = divmod(index, columns)
        x = (_MARGIN + column * (width + gap)) / total_width
        y = (total_height - top - (row + 1) * height - row * gap) / total_height
        place = (x, y, width / total_width, height / total_height)
        panels.append(figure.add_axes(place, xlim=(0, width), ylim=(0, height)))
        panels[-1].set_axis_off()
    return figure, panels


def _draw_legend(figure: Figure, operations: Sequence[str], columns: int) -> None:
    width, height = figure.get_size_inches()
    label = "weight of an input"
    figure.text(_MARGIN / width, 0.16 / height, label, fontsize=7.5, va="center_baseline")
    for handles, handle_columns, left, bottom in (
        (_operation_handles(operations), columns, _MARGIN, 0.3),
        (_weight_handles(), 4, _MARGIN + 1.1, 0.1),
    ):
        figure.legend(
            handles=handles, loc="lower left", ncols=handle_columns, fontsize=7.5, frameon=False,
            bbox_to_anchor=(left / width, bottom / height), borderaxespad=0, borderpad=0,
            handlelength=1.6, columnspacing=1.4, labelspacing=0.4,
        )  # fmt: skip


def _operation_handles(operations: Sequence[str]) -> list[Artist]:
    colours = _operation_colours(operations)
    handles: list[Artist] = [Patch(color=colours[name], label=name) for name in operations]
    tick = Line2D([], [], color=_INK, marker="|", markersize=9, lw=0, label="uniform share")
    return [*handles, tick]


def _weight_handles() -> list[Artist]:
    samples: list[Artist] = []
    for label, weight in (("0.1", 0.1), ("1/3", 1 / 3), ("2/3", 2 / 3), ("1", 1.0)):
        points = 72 * _arrow_width(weight)
        style = {"color": _INK, "alpha": _opacity(weight), "solid_capstyle": "butt"}
        samples.append(Line2D([], [], lw=points, label=label, **style))
    return samples


def _operation_colours(operations: Iterable[str]) -> dict[str, str]:
    further = itertools.cycle(_FURTHER_COLOURS)
    return {
        name: _OPERATION_COLOURS[name] if name in _OPERATION_COLOURS else next(further)
        for name in operations
    }


def _wrap(text: str, width: float, points: float) -> list[str]:
    """Lines of `text` that fit `width` inches, for DejaVu Sans at `points`; names stay whole."""
    characters = max(8, int(width * 72 / (0.58 * points)))
    return textwrap.wrap(text, characters, break_long_words=False, break_on_hyphens=False) or [""]


def _save(figure: Figure, out_path: str | Path | None) -> None:
    if out_path is None:
        return
    path = Path(out_path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"{path}: a picture is written as .png or .svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Text stays text, and the same picture gives the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pnfs"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


# --- one panel -----------------------------------------------------------------------------------


def _subtitle(fabric: FabricArchitecture, part: PartArchitecture) -> list[str]:
    if not part.joints:
        return []
    return _wrap(", ".join(part.joints), _Geometry(fabric, 1).width, points=7)


def _draw_title(axes: Axes, geometry: _Geometry, name: str, subtitle: list[str]) -> None:
    axes.text(0, geometry.height, name, fontsize=11, weight="bold", color=_INK, va="top")
    for index, line in enumerate(subtitle):
        y = geometry.height - 0.2 - index * _LINE
        axes.text(0, y, line, fontsize=7, color=_FAINT, va="top")


def _draw_grid(axes: Axes, geometry: _Geometry, source: str) -> None:
    fabric = geometry.fabric
    label_y = geometry.height - geometry.header + 0.08
    for layer in range(fabric.first_layer - 1, fabric.last_layer + 1):
        label = source if layer < fabric.first_layer else f"layer {layer}"
        x = sum(geometry.sides(layer)) / 2
        axes.text(x, label_y, label, fontsize=7, color=_FAINT, ha="center")
    for scale in fabric.scales:
        axes.text(0, geometry.row(scale), f"1/{scale}", fontsize=7.5, color=_FAINT, va="center")
    for scale in _input_scales(fabric):
        left, right = geometry.sides(fabric.first_layer - 1)
        _draw_box(axes, geometry, (left, right, scale), height=0.3, face="#eceff4", dashed=True)
    for cell in fabric.cells:
        left, right = geometry.sides(cell.layer)
        _draw_box(axes, geometry, (left, right, cell.scale), height=geometry.box[1], face="white")
        if not fabric.alpha_per_cell:
            axes.text(
                (left + right) / 2, geometry.row(cell.scale), str(fabric.channels * cell.scale),
                fontsize=7.5, color=_INK, ha="center", va="center", zorder=4,
            )  # fmt: skip


def _input_scales(fabric: FabricArchitecture) -> list[int]:
    """Scales of the input that a first-layer cell reads."""
    first = [cell for cell in fabric.cells if cell.layer == fabric.first_layer]
    return sorted({c.source for cell in first for c in cell.connections})


def _draw_box(
    axes: Axes,
    geometry: _Geometry,
    place: tuple[float, float, int],
    *,
    height: float,
    face: str,
    dashed: bool = False,
) -> None:
    left, right, scale = place
    axes.add_patch(
        FancyBboxPatch(
            (left, geometry.row(scale) - height / 2),
            right - left,
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=face,
            edgecolor=_INK,
            linewidth=0.9,
            linestyle=(0, (2, 1.5)) if dashed else "-",
            zorder=3,
        )
    )


def _merged_inputs(
    cell: CellWiring, weights: Float[np.ndarray, " 3"]
) -> dict[tuple[int, str], float]:
    """(source scale, transform) -> summed weight of the connections that read the same map alike."""
    merged: dict[tuple[int, str], float] = {}
    for connection, weight in zip(cell.connections, weights.tolist(), strict=True):
        key = (connection.source, connection.transform)
        merged[key] = merged.get(key, 0.0) + weight
    return merged


def _arrow_width(weight: float) -> float:
    return 0.006 + (_THICKEST_ARROW - 0.006) * weight


def _opacity(weight: float) -> float:
    return 0.15 + 0.85 * weight


def _draw_arrows(axes: Axes, geometry: _Geometry, name: str, part: PartArchitecture) -> None:
    for cell, weights in zip(geometry.fabric.cells, part.beta_weights, strict=True):
        for (source, transform), weight in _merged_inputs(cell, weights).items():
            # Three places on a cell's side, so that arrows neither start nor end on one another.
            lane = {"down": 0.11, "identity": 0.0, "up": -0.11}[transform]
            start = (geometry.sides(cell.layer - 1)[1], geometry.row(source) - lane)
            end = (geometry.sides(cell.layer)[0], geometry.row(cell.scale) + lane)
            arrow = _arrow(start, end, weight)
            arrow.set_gid(f"beta/{name}/{cell.name}/{source}/{transform}")
            axes.add_patch(arrow)
            _draw_arrow_weight(axes, start, end, transform, weight)


def _arrow(start: tuple[float, float], end: tuple[float, float], weight: float) -> FancyArrow:
    width = _arrow_width(weight)
    return FancyArrow(
        *start, end[0] - start[0], end[1] - start[1],
        width=width, head_width=width + 0.07, head_length=0.06 + 0.5 * width,
        length_includes_head=True, facecolor=_INK, edgecolor="none", linewidth=0,
        alpha=_opacity(weight), zorder=2,
    )  # fmt: skip


def _draw_arrow_weight(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    transform: str,
    weight: float,
) -> None:
    # Off the middle, where arrows down and up cross.
    along = 0.5 if transform == "identity" else 0.28
    x = start[0] + along * (end[0] - start[0])
    y = start[1] + along * (end[1] - start[1])
    axes.text(
        x, y, f"{weight:.2f}".lstrip("0") if weight < 0.995 else "1", fontsize=5.5, color=_INK,
        ha="center", va="center", zorder=5,
        bbox={"boxstyle": "round,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )  # fmt: skip


def _draw_alpha(axes: Axes, geometry: _Geometry, name: str, part: PartArchitecture) -> None:
    fabric = geometry.fabric
    edges = cell_edges(fabric.nodes)
    if fabric.alpha_per_cell:
        for cell, table in zip(fabric.cells, part.alpha_weights, strict=True):
            left, right = geometry.sides(cell.layer)
            top = geometry.row(cell.scale) + 0.06 * len(edges)
            for index, (edge, weights) in enumerate(zip(edges, table, strict=True)):
                bar = _Bar(left + 0.2, top - 0.12 * index - 0.1, right - left - 0.42, 0.08)
                _draw_edge(axes, bar, edge, weights, fabric.operations, f"{name}/{cell.name}")
        return
    top = geometry.footer - 0.2
    width = min(geometry.width - 0.66, _MAX_BAR_WIDTH)
    style = {"fontsize": 7, "color": _FAINT, "va": "center"}
    axes.text(0, top, "operations on each edge, %", **style)
    axes.text(width + 0.66, top, "entropy", ha="right", **style)
    for index, (edge, weights) in enumerate(zip(edges, part.alpha_weights[0], strict=True)):
        bar = _Bar(0.36, top - 0.26 - index * _EDGE_PITCH, width, 0.15)
        _draw_edge(axes, bar, edge, weights, fabric.operations, f"{name}/all")


@dataclass(frozen=True)
class _Bar:
    left: float
    bottom: float
    width: float
    height: float

    @property
    def small(self) -> bool:
        """Inside a cell, where there is no room for numbers."""
        return self.height < 0.12

    @property
    def middle(self) -> float:
        return self.bottom + self.height / 2


def _draw_edge(
    axes: Axes,
    bar: _Bar,
    edge: tuple[int, int],
    weights: Float[np.ndarray, " O"],
    operations: Sequence[str],
    owner: str,
) -> None:
    """One stacked bar: the edge's name, softmax(alpha) by operation, ticks at uniform, the entropy."""
    style = {"va": "center_baseline", "zorder": 5, "fontsize": 4.5 if bar.small else 7}
    name = f"{edge[0]}→{edge[1]}"
    axes.text(bar.left - 0.04, bar.middle, name, color=_INK, ha="right", **style)
    entropy = f"{entr(weights).sum():.2f}"
    axes.text(bar.left + bar.width + 0.04, bar.middle, entropy, color=_FAINT, **style)
    _draw_segments(axes, bar, weights, operations, f"alpha/{owner}/{edge[0]}-{edge[1]}")
    _draw_uniform_ticks(axes, bar, len(operations))


def _draw_segments(
    axes: Axes, bar: _Bar, weights: Float[np.ndarray, " O"], operations: Sequence[str], owner: str
) -> None:
    colours = _operation_colours(operations)
    left = bar.left
    for name, weight in zip(operations, weights.tolist(), strict=True):
        width = weight * bar.width
        segment = Rectangle(
            (left, bar.bottom), width, bar.height, facecolor=colours[name], edgecolor="white",
            linewidth=0.3 if bar.small else 0.6, zorder=4, gid=f"{owner}/{name}",
        )  # fmt: skip
        axes.add_patch(segment)
        if not bar.small and width >= 0.2:
            axes.text(
                left + width / 2, bar.middle, f"{100 * weight:.0f}", fontsize=6,
                color=_readable_on(colours[name]), ha="center", va="center_baseline", zorder=5,
            )  # fmt: skip
        left += width


def _readable_on(colour: str) -> str:
    red, green, blue = to_rgb(colour)
    return _INK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def _draw_uniform_ticks(axes: Axes, bar: _Bar, count: int) -> None:
    x = bar.left + bar.width * np.arange(1, count) / count
    if bar.small:
        axes.vlines(x, bar.bottom, bar.bottom + bar.height, colors=_INK, linewidth=0.5, zorder=6)
        return
    # Outside of the bar, so that no tick crosses a number.
    for end in (bar.bottom, bar.bottom + bar.height + 0.045):
        axes.vlines(x, end - 0.045, end, colors=_INK, linewidth=0.9, zorder=6)


def _draw_entropies(axes: Axes, part: PartArchitecture) -> None:
    means = [
        f"{symbol} {entr(weights).sum(-1).mean():.2f} of {math.log(weights.shape[-1]):.2f}"
        for symbol, weights in (("α", part.alpha_weights), ("β", part.beta_weights))
    ]
    text = f"mean entropy  {', '.join(means)} nats"
    axes.text(0, 0.04, text, fontsize=7, color=_FAINT, va="center")


# --- curves --------------------------------------------------------------------------------------


def plot_trajectory(
    history: Sequence[Architecture],
    out_path: str | Path | None = None,
    *,
    epochs: Sequence[float] | None = None,
) -> Figure:
    """Plots how each part's mixing weights moved during a search.

    Above, softmax(alpha): a thin line for each edge (and cell, where alpha is per cell), a thick one
    for the operation's mean. Below, softmax(beta): a thin line for each cell and neighbour, a thick one
    for the neighbour's mean. A dotted line marks uniform weights. All parts share their axes.

    Args:
        history: A run's architectures, in order.
        out_path: File to write, .png or .svg; None to write none.
        epochs: Where the architectures stand on the horizontal axis; None for 0, 1, 2, ...

    Raises:
        ValueError: The history is empty, its architectures do not have the same parts and shapes,
            `epochs` has another length, or the suffix is neither .png nor .svg.
    """
    _check_history(history, epochs)
    positions = range(len(history)) if epochs is None else epochs
    owners = {n: where for where, fabric in history[0].fabrics.items() for n in fabric.parts}
    parts = list(owners)
    fabrics = history[0].fabrics
    names = dict.fromkeys(name for fabric in fabrics.values() for name in fabric.operations)
    colours = {"alpha": _operation_colours(names), "beta": _NEIGHBOUR_COLOURS}
    columns = min(_PANELS_A_ROW, len(parts))
    rows = math.ceil(len(parts) / columns)
    figure = Figure(figsize=(2.5 * columns + 2.1, 3.5 * rows + 0.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 * rows, columns)
    shared: dict[str, Axes] = {}
    for index, part in enumerate(parts):
        row, column = divmod(index, columns)
        candidates = {"alpha": fabrics[owners[part]].operations, "beta": NEIGHBOURS}
        there = [entry.fabrics[owners[part]].parts[part] for entry in history]
        weights = {
            "alpha": np.stack([found.alpha_weights for found in there]),
            "beta": np.stack([found.beta_weights for found in there]),
        }
        for offset, (table, names_here) in enumerate(candidates.items()):
            first = shared.get(table)
            axes = figure.add_subplot(grid[2 * row + offset, column], sharex=first, sharey=first)
            shared.setdefault(table, axes)
            chosen = {name: colours[table][name] for name in names_here}
            _plot_weights(axes, positions, weights[table], chosen, f"{part}/{table}")
            if column == 0:
                axes.set_ylabel("α weight" if table == "alpha" else "β weight", fontsize=8)
        figure.axes[-2].set_title(part, fontsize=9, weight="bold", color=_INK)
        figure.axes[-1].set_xlabel("epoch", fontsize=8)
    handles = _curve_handles(colours)
    figure.legend(handles=handles, loc="outside right upper", fontsize=7.5, frameon=False)
    _save(figure, out_path)
    return figure


def _check_history(history: Sequence[Architecture], epochs: Sequence[float] | None) -> None:
    if not history:
        raise ValueError("there are no architectures to plot")
    if epochs is not None and len(epochs) != len(history):
        raise ValueError(f"{len(epochs)} epochs for {len(history)} architectures")
    for index, entry in enumerate(history):
        if _shape_of(entry) != _shape_of(history[0]):
            raise ValueError(
                f"architecture {index} has other parts, operations or cells than the first one"
            )


def _shape_of(architecture: Architecture) -> dict[str, tuple]:
    """The fabrics without their numbers."""
    return {
        where: (list(fabric.parts), fabric.operations, fabric.cells, fabric.alpha_shape)
        for where, fabric in architecture.fabrics.items()
    }


def _plot_weights(
    axes: Axes,
    positions: Sequence[float],
    weights: Float[np.ndarray, "epochs *rows candidates"],
    colours: Mapping[str, str],
    owner: str,
) -> None:
    rows = weights.reshape(len(weights), -1, len(colours))
    uniform = 1 / len(colours)
    # Weights that hardly move must not fill the axis.
    axes.update_datalim([(positions[0], uniform - 0.02), (positions[-1], uniform + 0.02)])
    for column, (name, colour) in enumerate(colours.items()):
        if rows.shape[1] > 1:
            axes.plot(positions, rows[:, :, column], color=colour, lw=0.6, alpha=0.55)
        mean = rows[:, :, column].mean(1)
        axes.plot(positions, mean, color=colour, lw=1.8, gid=f"{owner}/{name}")
    axes.axhline(uniform, color=_INK, lw=0.8, ls=":")
    axes.tick_params(labelsize=7, color=_FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)


def _curve_handles(colours: Mapping[str, Mapping[str, str]]) -> list[Artist]:
    handles: list[Artist] = [
        Line2D([], [], color=colour, lw=1.8, label=f"{symbol} {name}")
        for symbol, table in (("α", "alpha"), ("β", "beta"))
        for name, colour in colours[table].items()
    ]
    return [*handles, Line2D([], [], color=_INK, lw=0.8, ls=":", label="uniform")]

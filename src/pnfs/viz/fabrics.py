"""Diagrams of architectures: which inputs and operations a search preferred, and what is left of them."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from scipy.special import entr

from pnfs.models.architecture import Architecture, FabricArchitecture
from pnfs.models.cell import cell_edges
from pnfs.models.wiring import CellWiring
from pnfs.viz.fabric_bars import draw_alpha, draw_alpha_in_cell
from pnfs.viz.fabric_panels import Panel, read_panels
from pnfs.viz.style import (
    DASHES,
    DEAD,
    FAINT,
    INK,
    SMALL,
    TITLE,
    new_figure,
    operation_colours,
    save_figure,
)

_WIDEST = 24.0
"""Inches; so many panels stand in a row as fit, at most four."""
_PANELS_A_ROW = 4
# A cell in units of the grid, whose columns (layers) and rows (scales) are one unit apart.
_HALF_WIDTH = {False: 0.3, True: 0.36}
_HALF_HEIGHT = {False: 0.25, True: 0.36}
_LANES = {"down": 0.12, "identity": 0.0, "up": -0.12}
"""Three places on a cell's side, so that arrows neither start nor end on one another."""


def draw_fabrics(
    architecture: Architecture,
    out_path: str | Path | None = None,
    *,
    fabrics: Literal["subnetworks", "backbone"] = "subnetworks",
    title: str | None = None,
) -> Figure:
    """Draws the P fabrics side by side, each cell in its place on the grid scale x layer (Fig. 1 and 4).

    An arrow is an input of a cell; its width and opacity are its weight in softmax(beta). Inputs that
    read the same map through the same kind of transform are one arrow with their summed weight: what
    stands in for a missing neighbour. Bars are softmax(alpha), one bar for each edge (i, j) of a cell,
    below the grid or, with one alpha a cell, inside each cell. Small numbers beside bars are entropies
    in nats. What a derived architecture does without is faint and dashed: cells that reach no output,
    inputs and operations of weight 0 (hollow squares at the end of a bar), edges that carry nothing.

    Every arrow and every segment of a bar has a gid, which an SVG keeps as its id:
    "beta/<part>/<cell>/<source scale>/<transform>" and "alpha/<part>/<cell or all>/<i>-<j>/<operation>".

    Args:
        architecture: From `describe_architecture` or `architecture_from_json`.
        out_path: File to write, .png or .svg; None to write none.
        fabrics: Which fabrics to draw.
        title: Text above the figure; None for a line on Theta.

    Raises:
        ValueError: The backbone is asked for and is no fabric, a softmax is undefined, or the
            suffix is neither .png nor .svg.
    """
    panels = read_panels(architecture, fabrics)
    fabric = panels[0].fabric
    width, grid_height, bar_height = _panel_size(fabric)
    columns = max(1, min(_PANELS_A_ROW, len(panels), int(_WIDEST / width)))
    rows = math.ceil(len(panels) / columns)
    subtitles = [_wrapped(", ".join(panel.joints), width) for panel in panels]
    lines = max(map(len, subtitles))
    height = 0.75 + 0.14 * lines + grid_height + bar_height
    total_width = max(columns * width, 5.0)
    figure = new_figure(total_width, rows * height + 1.1)
    theta = (
        f"{architecture.skeleton} · {fabrics} · layers {fabric.first_layer}–{fabric.last_layer} "
        f"of {fabric.layers} · C={fabric.channels} · H={fabric.nodes}"
    )
    heading = "\n".join(_wrapped(title if title is not None else theta, total_width, points=TITLE))
    figure.suptitle(heading, x=0.01, ha="left", fontsize=TITLE, color=INK)
    source = "stem" if fabrics == "backbone" else "pyramid"
    places = figure.subfigures(rows, columns, squeeze=False).flat
    for place, panel, subtitle in zip(places, panels, subtitles, strict=False):
        padded = "\n".join(subtitle + [" "] * (lines - len(subtitle)))
        _draw_panel(place, panel, padded, source, (grid_height, bar_height))
    figure.legend(
        handles=_handles(fabric.operations, any(panel.any_dead for panel in panels)),
        loc="outside lower left", ncols=max(2, int(total_width / 1.6)), fontsize=SMALL, frameon=False,
    )  # fmt: skip
    if out_path is not None:
        save_figure(figure, out_path)
    return figure


def _panel_size(fabric: FabricArchitecture) -> tuple[float, float, float]:
    """Inches: width of a part, height of its grid, height of its bars."""
    columns, rows = fabric.last_layer - fabric.first_layer + 2, len(fabric.scales)
    edges = len(cell_edges(fabric.nodes))
    if fabric.alpha_per_cell:
        return max(3.2, 0.6 + 1.8 * columns), rows * max(0.8, 0.17 * edges + 0.25), 0.3
    return max(3.2, 0.6 + 0.95 * columns), 0.75 * rows, 0.7 + 0.26 * edges


def _wrapped(text: str, width: float, points: float = SMALL) -> list[str]:
    """Lines of `text` that fit `width` inches, for DejaVu Sans at `points`; names stay whole."""
    characters = max(8, int((width - 0.5) * 72 / (0.58 * points)))
    return textwrap.wrap(text, characters, break_long_words=False, break_on_hyphens=False) or [" "]


def _handles(operations: Sequence[str], any_dead: bool) -> list[Artist]:
    colours = operation_colours(operations)
    handles: list[Artist] = [Patch(color=colours[name], label=name) for name in operations]
    handles.append(Line2D([], [], color=INK, marker="|", ms=8, lw=0, label="uniform share"))
    for label, weight in (("0.1", 0.1), ("1/3", 1 / 3), ("1", 1.0)):
        style = {"lw": _arrow_width(weight), "alpha": _opacity(weight), "solid_capstyle": "butt"}
        handles.append(Line2D([], [], color=INK, label=f"input of weight {label}", **style))
    if any_dead:
        handles.append(Patch(facecolor="none", edgecolor=DEAD, linestyle=DASHES, label="not used"))
    return handles


# --- one part ------------------------------------------------------------------------------------


def _draw_panel(
    place: SubFigure, panel: Panel, subtitle: str, source: str, heights: tuple[float, float]
) -> None:
    place.suptitle(panel.name, x=0.03, ha="left", fontsize=TITLE, weight="bold", color=INK)
    grid, bars = place.subplots(2, 1, height_ratios=heights)
    grid.set_title(subtitle, loc="left", fontsize=SMALL, color=FAINT)
    _draw_grid(grid, panel, source)
    for cell, weights in zip(panel.fabric.cells, panel.beta, strict=True):
        _draw_inputs(grid, panel, cell, weights)
    bars.spines[:].set_visible(False)
    bars.set_xticks([])
    bars.set_yticks([])
    if not panel.fabric.alpha_per_cell:
        draw_alpha(bars, panel)
    means = [
        f"{symbol} {entr(weights).sum(-1).mean():.2f} of {math.log(weights.shape[-1]):.2f}"
        for symbol, weights in (("α", panel.alpha), ("β", panel.beta))
    ]
    bars.set_xlabel(
        f"mean entropy  {', '.join(means)} nats", fontsize=SMALL, color=FAINT, loc="left"
    )


def _draw_grid(axes: Axes, panel: Panel, source: str) -> None:
    fabric, wide = panel.fabric, panel.fabric.alpha_per_cell
    layers = range(fabric.first_layer, fabric.last_layer + 1)
    axes.set_xticks(range(len(layers) + 1), [source, *(f"layer {layer}" for layer in layers)])
    axes.set_yticks(list(panel.rows.values()), [f"1/{scale}" for scale in panel.rows])
    axes.tick_params(
        labelsize=SMALL, labelcolor=FAINT, length=0, labeltop=True, labelbottom=False, pad=1
    )
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, len(layers) + 0.5)
    axes.set_ylim(-len(panel.rows) + 0.5, 0.5)
    read = panel.read
    first = [cell for cell in fabric.cells if cell.layer == fabric.first_layer]
    dead = {"edgecolor": DEAD, "linestyle": DASHES}
    for scale in {connection.source for cell in first for connection in cell.connections}:
        style = {"facecolor": "#eceff4"} if scale in read else dead | {"gid": f"dead/input{scale}"}
        _draw_box(axes, 0, panel.rows[scale], wide, **style)
    for index, cell in enumerate(fabric.cells):
        live, x, y = cell.name in panel.live, panel.column(cell.layer), panel.rows[cell.scale]
        box = _draw_box(axes, x, y, wide, **({} if live else dead | {"gid": f"dead/{cell.name}"}))
        if wide:
            draw_alpha_in_cell(axes, panel, index, box.get_bbox().bounds)
        else:
            axes.text(
                x, y, str(fabric.channels * cell.scale), fontsize=SMALL,
                color=INK if live else DEAD, ha="center", va="center", zorder=4,
            )  # fmt: skip


def _draw_box(axes: Axes, x: float, y: float, wide: bool, **style) -> Rectangle:
    half = (_HALF_WIDTH[wide], _HALF_HEIGHT[wide])
    look = {"facecolor": "white", "edgecolor": INK, "linewidth": 0.9, "zorder": 3} | style
    corner, size = (x - half[0], y - half[1]), (2 * half[0], 2 * half[1])
    box = Rectangle(corner, *size, **look)
    axes.add_patch(box)
    return box


def _draw_inputs(
    axes: Axes, panel: Panel, cell: CellWiring, weights: Float[np.ndarray, " 3"]
) -> None:
    """Arrows of a cell's inputs; those that read the same map alike are one with their summed weight."""
    merged: dict[tuple[int, str], float] = {}
    for connection, weight in zip(cell.connections, weights.tolist(), strict=True):
        key = (connection.source, connection.transform)
        merged[key] = merged.get(key, 0.0) + weight
    half = _HALF_WIDTH[panel.fabric.alpha_per_cell]
    for (source, transform), weight in merged.items():
        start = (panel.column(cell.layer - 1) + half, panel.rows[source] - _LANES[transform])
        end = (panel.column(cell.layer) - half, panel.rows[cell.scale] + _LANES[transform])
        dead = weight == 0 or cell.name not in panel.live
        width = 0.7 if dead else _arrow_width(weight)
        look = {"alpha": _opacity(weight), "color": INK, "zorder": 2}
        if dead:
            look = {"color": DEAD, "linestyle": DASHES, "zorder": 1}
        arrow = FancyArrowPatch(
            start, end, arrowstyle="-|>", lw=width, mutation_scale=5 + width, shrinkA=0, shrinkB=0,
            gid=f"beta/{panel.name}/{cell.name}/{source}/{transform}", capstyle="butt",
            joinstyle="miter", **look,
        )  # fmt: skip
        axes.add_patch(arrow)
        if not dead:
            _draw_weight(axes, start, end, transform, weight)


def _draw_weight(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    transform: str,
    weight: float,
) -> None:
    along = 0.45 if transform == "identity" else 0.25  # Off the middle, where arrows cross.
    x, y = (a + along * (b - a) for a, b in zip(start, end, strict=True))
    axes.text(
        x, y, f"{weight:.2f}".lstrip("0") if weight < 0.995 else "1", fontsize=5.5, color=INK,
        ha="center", va="center", zorder=5,
        bbox={"boxstyle": "round,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )  # fmt: skip


def _arrow_width(weight: float) -> float:
    """Points."""
    return 0.5 + 7.5 * weight


def _opacity(weight: float) -> float:
    return 0.15 + 0.85 * weight

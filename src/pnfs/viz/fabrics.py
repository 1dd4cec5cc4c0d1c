"""Diagrams of architectures: which inputs and operations a search preferred, and what is left of them."""

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from scipy.special import entr

from pnfs.errors import PnfsError
from pnfs.models.architecture import Architecture, FabricArchitecture
from pnfs.models.cell import cell_edges
from pnfs.models.derive import kept_settings
from pnfs.models.wiring import CellWiring, KeptCells, sources
from pnfs.viz.style import FAINT, INK, SMALL, TITLE, new_figure, operation_colours, save_figure

DEAD, DASHES = "#b0b0b0", (0, (2, 1.5))
"""Colour and dashes of what a derived architecture does without."""

# The grid's columns (layers) and rows (scales) are one unit apart.
_HALF_WIDTH, _HALF_HEIGHT = 0.32, 0.3
_LANES = {"down": 0.12, "identity": 0.0, "up": -0.12}
"""Three places on a cell's side, so that arrows neither start nor end on one another."""


def draw_fabrics(
    architecture: Architecture, out_path: str | Path | None = None, *, fabrics: str = "subnetworks"
) -> Figure:
    """Draws the P "subnetworks" (or the "backbone") side by side, each cell at its scale and layer (Fig. 1 and 4).

    An arrow is an input of a cell; its width and opacity are its weight in softmax(beta). Inputs that
    read the same map through the same kind of transform are one arrow with their summed weight: what
    stands in for a missing neighbour. Bars are softmax(alpha), one bar for each edge (i, j) of a cell, the
    mean over the cells where each has an alpha of its own. Small numbers beside bars are entropies in nats.
    What a derived architecture does without is faint and dashed: cells that reach no output, inputs of weight
    0, edges that carry nothing.

    Every arrow and every segment of a bar has a gid, which an SVG keeps as its id:
    "beta/<part>/<cell>/<source scale>/<transform>" and "alpha/<part>/<i>-<j>/<operation>".
    `out_path` is a .png or .svg to write.

    Raises:
        PnfsError: There is no such fabric, a softmax is undefined, or the file cannot be written as PNG or SVG.
    """
    if fabrics not in architecture.fabrics:
        raise PnfsError(f"{fabrics!r} is no fabric of this architecture: there is nothing to draw")
    fabric = architecture.fabrics[fabrics]
    for name, part in fabric.parts.items():
        for kind, weights in (("alpha", part.alpha_weights), ("beta", part.beta_weights)):
            if not np.isfinite(weights).all():
                raise PnfsError(f"{name}/{kind} has a logit of +inf, or a row without one above -inf")
    kept = kept_settings(architecture)[fabrics]
    layers = fabric.last_layer - fabric.first_layer + 2
    heights = (0.75 * len(fabric.scales), 0.7 + 0.26 * len(cell_edges(fabric.nodes)))
    columns, width = min(4, len(kept)), max(3.4, 0.7 + 0.95 * layers)
    rows, total = math.ceil(len(kept) / columns), max(5.0, columns * width)
    joints = [", ".join(part.joints) or " " for part in fabric.parts.values()]
    subtitles = [textwrap.wrap(text, int(13 * width)) for text in joints]
    lines = max(map(len, subtitles))
    figure = new_figure(total, rows * (sum(heights) + 0.9 + 0.13 * lines) + 0.8)
    theta = (
        f"{architecture.skeleton} · {fabrics} · layers {fabric.first_layer}–{fabric.last_layer} "
        f"of {fabric.layers} · C={fabric.channels} · H={fabric.nodes}"
    )
    figure.suptitle(theta, x=0.01, ha="left", fontsize=TITLE, color=INK)
    places = figure.subfigures(rows, columns, squeeze=False).flat
    small: dict[str, Any] = {"loc": "left", "fontsize": SMALL, "color": FAINT}
    for place, (name, live), subtitle in zip(places, kept.items(), subtitles, strict=False):
        place.suptitle(name, x=0.03, ha="left", fontsize=TITLE, weight="bold", color=INK)
        above, below = place.subplots(2, 1, height_ratios=heights)
        above.set_title("\n".join(subtitle + [" "] * (lines - len(subtitle))), **small)
        _draw_grid(above, fabric, name, live, "stem" if fabrics == "backbone" else "pyramid")
        mean = ", mean over cells" if fabric.alpha_per_cell else ""
        below.set_title(f"operations on each edge{mean}, %; entropy", **small)
        _draw_mixing(below, fabric, name)
    handles = _legend(fabric, not_used=min(map(len, kept.values())) < len(fabric.cells))
    figure.legend(handles=handles, ncols=int(total / 1.6), loc="outside lower left", fontsize=SMALL, frameon=False)
    if out_path is not None:
        save_figure(figure, out_path)
    return figure


def _legend(fabric: FabricArchitecture, not_used: bool) -> list[Artist]:
    """Operations, widths of inputs, and what is not used: cells (`not_used`), or anything of weight 0."""
    handles: list[Artist] = [Patch(color=c, label=n) for n, c in operation_colours(fabric.operations).items()]
    handles.append(Line2D([], [], color=INK, marker="|", ms=8, lw=0, label="uniform share"))
    for label, weight in (("0.1", 0.1), ("1/3", 1 / 3), ("1", 1.0)):
        handles.append(Line2D([], [], label=f"input of weight {label}", **_weighted(weight)))
    weights = [w for part in fabric.parts.values() for w in (part.alpha_weights, part.beta_weights)]
    if not_used or any((each == 0).any() for each in weights):
        handles.append(Patch(facecolor="none", edgecolor=DEAD, linestyle=DASHES, label="not used"))
    return handles


def _draw_grid(axes: Axes, fabric: FabricArchitecture, name: str, live: KeptCells, source: str) -> None:
    layers = range(fabric.first_layer, fabric.last_layer + 1)
    axes.set_xticks(range(len(layers) + 1), [source, *(f"layer {layer}" for layer in layers)])
    axes.set_yticks(range(0, -len(fabric.scales), -1), [f"1/{scale}" for scale in fabric.scales])
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=SMALL, labelcolor=FAINT)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.5, len(layers) + 0.5), ylim=(0.5 - len(fabric.scales), 0.5))
    read = sources(fabric, live)
    first = [cell for cell in fabric.cells if cell.layer == fabric.first_layer]
    for scale in {connection.source for cell in first for connection in cell.connections}:
        _draw_box(axes, *_place(fabric, fabric.first_layer - 1, scale), f"input{scale}", scale in read, "#eceff4")
    for cell, weights in zip(fabric.cells, fabric.parts[name].beta_weights, strict=True):
        alive, (x, y) = cell.name in live, _place(fabric, cell.layer, cell.scale)
        _draw_box(axes, x, y, cell.name, alive)
        look = {"color": INK if alive else DEAD, "ha": "center", "va": "center", "zorder": 4}
        axes.text(x, y, str(fabric.channels * cell.scale), fontsize=SMALL, **look)
        _draw_inputs(axes, fabric, name, cell, weights, alive)


def _place(fabric: FabricArchitecture, layer: int, scale: int) -> tuple[int, int]:
    """x and y of a cell in the grid; the input is in column 0."""
    return layer - fabric.first_layer + 1, -fabric.scales.index(scale)


def _draw_box(axes: Axes, x: float, y: float, name: str, alive: bool, colour: str = "white") -> None:
    """The box of a cell or an input."""
    look: dict[str, Any] = {"fc": colour, "ec": INK}
    if not alive:
        look = {"fc": "white", "ec": DEAD, "ls": DASHES, "gid": f"dead/{name}"}
    corner = (x - _HALF_WIDTH, y - _HALF_HEIGHT)
    axes.add_patch(Rectangle(corner, 2 * _HALF_WIDTH, 2 * _HALF_HEIGHT, lw=0.9, zorder=3, **look))


def _draw_inputs(
    axes: Axes,
    fabric: FabricArchitecture,
    part: str,
    cell: CellWiring,
    weights: Float[np.ndarray, " 3"],
    alive: bool,
) -> None:
    """Arrows of a cell's inputs; those that read the same map alike are one with their summed weight."""
    merged: dict[tuple[int, str], float] = {}
    for connection, weight in zip(cell.connections, weights.tolist(), strict=True):
        key = (connection.source, connection.transform)
        merged[key] = merged.get(key, 0.0) + weight
    for (source, transform), weight in merged.items():
        x, y = _place(fabric, cell.layer - 1, source)
        start = (x + _HALF_WIDTH, y - _LANES[transform])
        x, y = _place(fabric, cell.layer, cell.scale)
        end = (x - _HALF_WIDTH, y + _LANES[transform])
        dead = weight == 0 or not alive
        look = {"color": DEAD, "lw": 0.7, "linestyle": DASHES} if dead else _weighted(weight)
        arrow = FancyArrowPatch(
            start, end, arrowstyle="-|>", shrinkA=0, shrinkB=0, capstyle="butt", joinstyle="miter",
            mutation_scale=5 + look["lw"], zorder=1 if dead else 2,
            gid=f"beta/{part}/{cell.name}/{source}/{transform}", **look,
        )  # fmt: skip
        axes.add_patch(arrow)
        if not dead:
            along = 0.45 if transform == "identity" else 0.25  # Off the middle, where arrows cross.
            x, y = (a + along * (b - a) for a, b in zip(start, end, strict=True))
            axes.text(
                x, y, f"{weight:.2f}".lstrip("0") if weight < 0.995 else "1", fontsize=5.5,
                color=INK, ha="center", va="center", zorder=5,
                bbox={"boxstyle": "round,pad=0.08", "fc": "white", "ec": "none", "alpha": 0.85},
            )  # fmt: skip


def _weighted(weight: float) -> dict[str, Any]:
    """Look of an arrow of this weight; its width is in points."""
    weight = min(weight, 1.0)  # A sum of weights may be rounded up.
    return {"color": INK, "lw": 0.5 + 7.5 * weight, "alpha": 0.15 + 0.85 * weight}


def _draw_mixing(axes: Axes, fabric: FabricArchitecture, part: str) -> None:
    """One bar of softmax(alpha) for each edge: its name, the weights, the entropy in nats."""
    edges, operations = cell_edges(fabric.nodes), fabric.operations
    table = fabric.parts[part].alpha_weights.mean(0)
    used, places = _edges_that_carry(fabric, table), range(len(edges))
    starts = np.cumsum(table, axis=1) - table
    for column, (operation, colour) in enumerate(operation_colours(operations).items()):
        weights = table[:, column]
        bars = axes.barh(places, weights, 0.62, starts[:, column], color=colour, ec="white", lw=0.4)
        dark = np.dot(to_rgb(colour), (0.3, 0.59, 0.11)) <= 0.5
        numbers = [f"{100 * weight:.0f}" if weight >= 0.08 else "" for weight in weights]
        texts = axes.bar_label(bars, numbers, label_type="center", fontsize=SMALL - 1)
        for bar, text, (i, j), shown in zip(bars, texts, edges, used, strict=True):
            bar.set(gid=f"alpha/{part}/{i}-{j}/{operation}", alpha=None if shown else 0.3)
            text.set_color("white" if shown and dark else INK)
    for row, ((i, j), shown) in enumerate(zip(edges, used, strict=True)):
        entropy = f"{entr(table[row]).sum():.2f}"
        axes.text(1.02, row, entropy, color=FAINT, fontsize=SMALL, va="center")
        if not shown:
            frame = Rectangle((0, row - 0.31), 1, 0.62, fill=False, ec=DEAD, ls=DASHES, zorder=3)
            axes.add_patch(frame).set_gid(f"dead/{part}/{i}-{j}")
    axes.set_yticks(places, [f"{i}→{j}" for i, j in edges])
    axes.set(xlim=(0, 1), ylim=(max(len(edges), 2) - 0.5, -0.5))
    # Ticks where the bounds of uniform weights would be.
    axes.set_xticks(np.arange(1, len(operations)) / len(operations), labels=[])
    axes.tick_params("y", length=0, pad=1, labelsize=SMALL)
    axes.tick_params("x", top=True, bottom=False, direction="in")
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)


def _edges_that_carry(fabric: FabricArchitecture, table: Float[np.ndarray, "E O"]) -> list[bool]:
    """Whether each edge has an operation other than zero, and comes from a node that anything reaches."""
    acts = np.any(table[:, [name != "zero" for name in fabric.operations]], axis=1)
    reached, found = {0}, []
    for (i, j), acting in zip(cell_edges(fabric.nodes), acts, strict=True):
        found.append(bool(i in reached and acting))
        reached |= {j} if found[-1] else set()
    return found

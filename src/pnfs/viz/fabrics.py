"""Diagrams of architectures: which inputs and operations a search preferred, and what is left of them."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from scipy.special import entr

from pnfs.errors import PnfsError
from pnfs.models.architecture import Architecture, FabricArchitecture
from pnfs.models.cell import cell_edges
from pnfs.models.derive import kept_settings
from pnfs.models.wiring import CellWiring, KeptCells, sources
from pnfs.viz.mixing import draw_mixing
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

# The grid's columns (layers) and rows (scales) are one unit apart.
_HALF_WIDTH, _HALF_HEIGHT = 0.32, 0.3
_LANES = {"down": 0.12, "identity": 0.0, "up": -0.12}
"""Three places on a cell's side, so that arrows neither start nor end on one another."""


@dataclass(frozen=True)
class Panel:
    """One part: softmax(alpha), softmax(beta), and which of its cells reach an output that is read."""

    fabric: FabricArchitecture
    name: str
    alpha: Float[np.ndarray, "tables E O"]
    beta: Float[np.ndarray, "cells 3"]
    live: KeptCells

    def place(self, layer: int, scale: int) -> tuple[int, int]:
        """x and y of a cell in the grid; the input is in column 0."""
        return layer - self.fabric.first_layer + 1, -self.fabric.scales.index(scale)


def draw_fabrics(
    architecture: Architecture,
    out_path: str | Path | None = None,
    *,
    fabrics: Literal["subnetworks", "backbone"] = "subnetworks",
) -> Figure:
    """Draws the P fabrics side by side, each cell in its place on the grid scale x layer (Fig. 1 and 4).

    An arrow is an input of a cell; its width and opacity are its weight in softmax(beta). Inputs that
    read the same map through the same kind of transform are one arrow with their summed weight: what
    stands in for a missing neighbour. Bars are softmax(alpha), one bar for each edge (i, j) of a cell,
    below the grid or, with one alpha a cell, inside each cell. Small numbers beside bars are entropies
    in nats. What a derived architecture does without is faint and dashed: cells that reach no output,
    inputs and operations of weight 0 (hollow squares after a bar), edges that carry nothing.

    Every arrow and every segment of a bar has a gid, which an SVG keeps as its id:
    "beta/<part>/<cell>/<source scale>/<transform>" and "alpha/<part>/<cell or all>/<i>-<j>/<operation>".

    Args:
        architecture: From `describe_architecture` or `architecture_from_json`.
        out_path: File to write, .png or .svg; None to write none.
        fabrics: Which fabrics to draw.

    Raises:
        ValueError: The backbone is asked for and is no fabric, a softmax is undefined, or the file
            cannot be written as PNG or SVG.
    """
    panels = _read_panels(architecture, fabrics)
    fabric, source = panels[0].fabric, "stem" if fabrics == "backbone" else "pyramid"
    edges, scales = len(cell_edges(fabric.nodes)), len(fabric.scales)
    layers = fabric.last_layer - fabric.first_layer + 2
    width, heights = max(3.4, 0.7 + 0.95 * layers), (0.75 * scales, 0.7 + 0.26 * edges)
    if fabric.alpha_per_cell:
        width, heights = 0.7 + 1.8 * layers, (scales * max(0.9, 0.3 + 0.2 * edges), 0.2)
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    joints = [", ".join(fabric.parts[panel.name].joints) or " " for panel in panels]
    subtitles = [textwrap.wrap(text, int(13 * width)) for text in joints]
    lines = max(map(len, subtitles))
    total = max(5.0, columns * width)
    figure = new_figure(total, rows * (sum(heights) + 0.9 + 0.13 * lines) + 0.8)
    theta = (
        f"{architecture.skeleton} · {fabrics} · layers {fabric.first_layer}–{fabric.last_layer} "
        f"of {fabric.layers} · C={fabric.channels} · H={fabric.nodes}"
    )
    figure.suptitle(theta, x=0.01, ha="left", fontsize=TITLE, color=INK)
    places = figure.subfigures(rows, columns, squeeze=False).flat
    for place, panel, subtitle in zip(places, panels, subtitles, strict=False):
        padded = "\n".join(subtitle + [" "] * (lines - len(subtitle)))
        _draw_panel(place, panel, padded, source, heights)
    any_dead = any(
        (panel.alpha == 0).any() or (panel.beta == 0).any() or len(panel.live) < len(fabric.cells)
        for panel in panels
    )
    style = {"ncols": int(total / 1.6), "fontsize": SMALL, "frameon": False}
    handles = _handles(fabric.operations, any_dead)
    figure.legend(handles=handles, loc="outside lower left", **style)
    if out_path is not None:
        save_figure(figure, out_path)
    return figure


def _read_panels(architecture: Architecture, fabrics: str) -> list[Panel]:
    if fabrics not in ("subnetworks", "backbone"):
        raise PnfsError(f"fabrics={fabrics!r}: there are subnetworks and backbone")
    fabric = architecture.fabrics.get(fabrics)
    if fabric is None:
        raise PnfsError("the backbone is not a fabric: there is nothing to draw")
    for name, part in fabric.parts.items():
        for kind, weights in (("alpha", part.alpha_weights), ("beta", part.beta_weights)):
            if not np.isfinite(weights).all():
                raise PnfsError(
                    f"{name}/{kind} has a row without finite mixing weights "
                    "(a logit of +inf, or none above -inf)"
                )
    return [
        Panel(fabric, name, fabric.parts[name].alpha_weights, fabric.parts[name].beta_weights, live)
        for name, live in kept_settings(architecture)[fabrics].items()
    ]


def _handles(operations: Sequence[str], any_dead: bool) -> list[Artist]:
    colours = operation_colours(operations)
    handles: list[Artist] = [Patch(color=colours[name], label=name) for name in operations]
    handles.append(Line2D([], [], color=INK, marker="|", ms=8, lw=0, label="uniform share"))
    for label, weight in (("0.1", 0.1), ("1/3", 1 / 3), ("1", 1.0)):
        handles.append(Line2D([], [], label=f"input of weight {label}", **_weighted(weight)))
    if any_dead:
        handles.append(Patch(facecolor="none", edgecolor=DEAD, linestyle=DASHES, label="not used"))
    return handles


def _draw_panel(
    place: SubFigure, panel: Panel, subtitle: str, source: str, heights: tuple[float, float]
) -> None:
    place.suptitle(panel.name, x=0.03, ha="left", fontsize=TITLE, weight="bold", color=INK)
    grid, bars = place.subplots(2, 1, height_ratios=heights)
    grid.set_title(subtitle, loc="left", fontsize=SMALL, color=FAINT)
    _draw_grid(grid, panel, source)
    for cell, weights in zip(panel.fabric.cells, panel.beta, strict=True):
        _draw_inputs(grid, panel, cell, weights)
    if panel.fabric.alpha_per_cell:
        bars.spines[:].set_visible(False)
        bars.set(xticks=[], yticks=[])
    else:
        bars.set_title(
            "operations on each edge, %; entropy", loc="left", fontsize=SMALL, color=FAINT
        )
        edges, operations = cell_edges(panel.fabric.nodes), panel.fabric.operations
        draw_mixing(bars, panel.alpha[0], edges, operations, owner=f"{panel.name}/all")
    means = [
        f"{symbol} {entr(weights).sum(-1).mean():.2f} of {math.log(weights.shape[-1]):.2f}"
        for symbol, weights in (("α", panel.alpha), ("β", panel.beta))
    ]
    text = f"mean entropy  {', '.join(means)} nats"
    bars.set_xlabel(text, fontsize=SMALL, color=FAINT, loc="left")


def _draw_grid(axes: Axes, panel: Panel, source: str) -> None:
    fabric = panel.fabric
    layers = range(fabric.first_layer, fabric.last_layer + 1)
    axes.set_xticks(range(len(layers) + 1), [source, *(f"layer {layer}" for layer in layers)])
    axes.set_yticks(range(0, -len(fabric.scales), -1), [f"1/{scale}" for scale in fabric.scales])
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=SMALL, labelcolor=FAINT)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.5, len(layers) + 0.5), ylim=(0.5 - len(fabric.scales), 0.5))
    read = sources(fabric, panel.live)
    first = [cell for cell in fabric.cells if cell.layer == fabric.first_layer]
    for scale in {connection.source for cell in first for connection in cell.connections}:
        corner = panel.place(fabric.first_layer - 1, scale)
        _draw_box(axes, *corner, "#eceff4", None if scale in read else f"dead/input{scale}")
    for index, cell in enumerate(fabric.cells):
        live, (x, y) = cell.name in panel.live, panel.place(cell.layer, cell.scale)
        _draw_box(axes, x, y, "white", None if live else f"dead/{cell.name}")
        if fabric.alpha_per_cell:
            inside = (x - 0.2, y - _HALF_HEIGHT, 0.36, 2 * _HALF_HEIGHT)
            draw_mixing(
                axes.inset_axes(inside, transform=axes.transData, zorder=4), panel.alpha[index],
                cell_edges(fabric.nodes), fabric.operations, owner=f"{panel.name}/{cell.name}",
                alive=live, small=True,
            )  # fmt: skip
        else:
            look = {"color": INK if live else DEAD, "ha": "center", "va": "center", "zorder": 4}
            axes.text(x, y, str(fabric.channels * cell.scale), fontsize=SMALL, **look)


def _draw_box(axes: Axes, x: float, y: float, colour: str, dead: str | None) -> None:
    """The box of a cell or an input; `dead` is the gid of one that is not used."""
    corner = (x - _HALF_WIDTH, y - _HALF_HEIGHT)
    box = Rectangle(corner, 2 * _HALF_WIDTH, 2 * _HALF_HEIGHT, fc=colour, ec=INK, lw=0.9, zorder=3)
    if dead:
        box.set(facecolor="white", edgecolor=DEAD, linestyle=DASHES, gid=dead)
    axes.add_patch(box)


def _draw_inputs(
    axes: Axes, panel: Panel, cell: CellWiring, weights: Float[np.ndarray, " 3"]
) -> None:
    """Arrows of a cell's inputs; those that read the same map alike are one with their summed weight."""
    merged: dict[tuple[int, str], float] = {}
    for connection, weight in zip(cell.connections, weights.tolist(), strict=True):
        key = (connection.source, connection.transform)
        merged[key] = merged.get(key, 0.0) + weight
    for (source, transform), weight in merged.items():
        x, y = panel.place(cell.layer - 1, source)
        start = (x + _HALF_WIDTH, y - _LANES[transform])
        x, y = panel.place(cell.layer, cell.scale)
        end = (x - _HALF_WIDTH, y + _LANES[transform])
        dead = weight == 0 or cell.name not in panel.live
        look = {"color": DEAD, "lw": 0.7, "linestyle": DASHES} if dead else _weighted(weight)
        arrow = FancyArrowPatch(
            start, end, arrowstyle="-|>", shrinkA=0, shrinkB=0, capstyle="butt", joinstyle="miter",
            mutation_scale=5 + look["lw"], zorder=1 if dead else 2,
            gid=f"beta/{panel.name}/{cell.name}/{source}/{transform}", **look,
        )  # fmt: skip
        axes.add_patch(arrow)
        if not dead:
            along = 0.45 if transform == "identity" else 0.25  # Off the middle, where arrows cross.
            x, y = (a + along * (b - a) for a, b in zip(start, end, strict=True))
            number = axes.text(
                x, y, f"{weight:.2f}".lstrip("0") if weight < 0.995 else "1", fontsize=5.5,
                color=INK, ha="center", va="center", zorder=5,
            )  # fmt: skip
            number.set_bbox(
                {"boxstyle": "round,pad=0.08", "fc": "white", "ec": "none", "alpha": 0.85}
            )


def _weighted(weight: float) -> dict[str, Any]:
    """Look of an arrow of this weight; its width is in points."""
    return {"color": INK, "lw": 0.5 + 7.5 * weight, "alpha": 0.15 + 0.85 * weight}

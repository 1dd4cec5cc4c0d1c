"""Stacked bars of softmax(alpha): which operations an edge mixes, which it does without, and the entropy."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from scipy.special import entr

from pnfs.viz.fabric_panels import Panel, edges_that_carry
from pnfs.viz.style import DASHES, DEAD, FAINT, INK, SMALL, operation_colours


def draw_alpha(axes: Axes, panel: Panel) -> None:
    """The bars of a fabric whose cells share alpha, on axes of their own."""
    count, tops = len(panel.fabric.operations), [-float(n) for n in range(len(panel.edges))]
    pruned = int((panel.alpha[0] == 0).sum(-1).max())
    axes.set_xlim(0, 1.1 + 0.035 * pruned)
    axes.set_ylim(min(tops[-1] - 0.6, -1.2), 0.6)
    axes.set_title("operations on each edge, %; entropy", loc="left", fontsize=SMALL, color=FAINT)
    axes.set_xticks(np.arange(1, count) / count, [])
    axes.tick_params(axis="x", top=True, bottom=True, direction="in", length=4, color=INK)
    _draw_bars(axes, panel, panel.alpha[0], (0.0, 1.0), tops, 0.62, f"{panel.name}/all", True)


def draw_alpha_in_cell(
    axes: Axes, panel: Panel, index: int, box: tuple[float, float, float, float]
) -> None:
    """The bars of one cell inside its box (left, bottom, width, height) of the grid."""
    cell, (left, bottom, width, height) = panel.fabric.cells[index], box
    step = height / len(panel.edges)
    tops = [bottom + height - (n + 0.5) * step for n in range(len(panel.edges))]
    span = (left + 0.18 * width, left + 0.79 * width)
    alive = cell.name in panel.live
    owner = f"{panel.name}/{cell.name}"
    _draw_bars(axes, panel, panel.alpha[index], span, tops, 0.62 * step, owner, alive)


def _draw_bars(
    axes: Axes,
    panel: Panel,
    table: Float[np.ndarray, "E O"],
    span: tuple[float, float],
    tops: Sequence[float],
    height: float,
    owner: str,
    alive: bool,
) -> None:
    """A stacked bar for each edge: its name, softmax(alpha) by operation, what is pruned, the entropy."""
    operations, small = panel.fabric.operations, panel.fabric.alpha_per_cell
    colours = operation_colours(operations)
    carries = edges_that_carry(panel.edges, table, operations)
    left, length = span[0], span[1] - span[0]
    pad = 0.02 if small else 0.015
    style = {"va": "center_baseline", "zorder": 5, "fontsize": 4.5 if small else SMALL}
    for (i, j), weights, y in zip(panel.edges, table, tops, strict=True):
        used = alive and (i, j) in carries
        axes.text(left - pad, y, f"{i}→{j}", color=INK if used else DEAD, ha="right", **style)
        entropy = f"{entr(weights).sum():.2f}"
        pruned = [name for name, weight in zip(operations, weights, strict=True) if weight == 0]
        starts = left + length * np.concatenate([[0.0], np.cumsum(weights)])
        for name, start, weight in zip(operations, starts[:-1], weights, strict=True):
            segment = Rectangle(
                (start, y - height / 2), weight * length, height, facecolor=colours[name],
                edgecolor="white", linewidth=0.3 if small else 0.6, zorder=4,
                alpha=None if used else 0.3, gid=f"alpha/{owner}/{i}-{j}/{name}",
            )  # fmt: skip
            axes.add_patch(segment)
            if not small and weight >= 0.08:
                axes.text(
                    start + weight * length / 2, y, f"{100 * weight:.0f}", ha="center",
                    color=_readable_on(colours[name]) if used else INK, va="center_baseline",
                    fontsize=SMALL - 1, zorder=5,
                )  # fmt: skip
        if not used:
            axes.add_patch(
                Rectangle((left, y - height / 2), length, height, fill=False, edgecolor=DEAD,
                          linestyle=DASHES, linewidth=0.9, zorder=6, gid=f"dead/{owner}/{i}-{j}")
            )  # fmt: skip
        axes.text(left + length + pad, y, entropy, color=FAINT, **style)
        if pruned and not small:
            _draw_pruned(axes, y, [colours[name] for name in pruned], f"pruned/{owner}/{i}-{j}")


def _draw_pruned(axes: Axes, y: float, colours: Sequence[str], gid: str) -> None:
    """Hollow squares in the colours of the operations that an edge does without, after its entropy."""
    for n, colour in enumerate(colours):
        axes.plot(
            [1.12 + 0.035 * n], [y], "s", ms=4, markerfacecolor="none", markeredgecolor=colour,
            markeredgewidth=0.9, gid=gid,
        )  # fmt: skip


def _readable_on(colour: str) -> str:
    red, green, blue = to_rgb(colour)
    return INK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"

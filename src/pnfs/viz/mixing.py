"""Stacked bars of softmax(alpha): which operations an edge mixes, which it does without, and the entropy."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from scipy.special import entr

from pnfs.viz.style import DASHES, DEAD, FAINT, INK, SMALL, operation_colours

Edge = tuple[int, int]


def draw_mixing(
    axes: Axes,
    table: Float[np.ndarray, "E O"],
    edges: Sequence[Edge],
    operations: Sequence[str],
    *,
    owner: str,
    alive: bool = True,
    small: bool = False,
) -> None:
    """One bar for each edge: its name, the operations' weights, the entropy in nats, what was pruned.

    Args:
        axes: Hold nothing else.
        table: softmax(alpha).
        edges: Names of the rows.
        operations: Names of the columns.
        owner: "<part>/<cell or all>", for the gids.
        alive: Whether the cell reaches an output.
        small: Inside a cell of the diagram, without numbers on the segments.
    """
    size = 4.5 if small else SMALL
    carrying = _edges_that_carry(edges, table, operations)
    used = np.array([alive and edge in carrying for edge in edges])
    rows, starts = np.arange(len(edges)), np.cumsum(table, axis=1) - table
    for column, (name, colour) in enumerate(operation_colours(operations).items()):
        weights = table[:, column]
        bars = axes.barh(
            rows, weights, 0.62, starts[:, column], color=colour, edgecolor="white", lw=0.4
        )
        for bar, edge, shown in zip(bars, edges, used, strict=True):
            bar.set_gid(f"alpha/{owner}/{_name(edge)}/{name}")
            bar.set_alpha(None if shown else 0.3)
        if small:
            continue
        numbers = [f"{100 * weight:.0f}" if weight >= 0.08 else "" for weight in weights]
        texts = axes.bar_label(bars, numbers, label_type="center", fontsize=SMALL - 1)
        for text, shown in zip(texts, used, strict=True):
            text.set_color(_readable_on(colour) if shown else INK)
        for row in np.flatnonzero(weights == 0).tolist():
            mark = axes.plot(1.14 + 0.035 * column, row, "s", ms=4, mfc="none", mec=colour)[0]
            mark.set(clip_on=False, gid=f"pruned/{owner}/{_name(edges[row])}")
    for row, edge in enumerate(edges):
        axes.text(
            1.02, row, f"{entr(table[row]).sum():.2f}", color=FAINT, fontsize=size, va="center"
        )
        if not used[row]:
            frame = Rectangle((0, row - 0.31), 1, 0.62, fill=False, ec=DEAD, ls=DASHES, zorder=3)
            frame.set_gid(f"dead/{owner}/{_name(edge)}")
            axes.add_patch(frame)
    axes.set_yticks(rows, [f"{i}→{j}" for i, j in edges])
    for text, shown in zip(axes.get_yticklabels(), used, strict=True):
        text.set_color(INK if shown else DEAD)
    axes.set_ylim(max(len(edges), 2) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    # Ticks where the bounds of uniform weights would be.
    axes.set_xticks([] if small else np.arange(1, len(operations)) / len(operations), labels=[])
    axes.tick_params("y", length=0, pad=1, labelsize=size)
    axes.tick_params("x", top=True, direction="in")
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)


def _name(edge: Edge) -> str:
    return f"{edge[0]}-{edge[1]}"


def _edges_that_carry(
    edges: Sequence[Edge], table: Float[np.ndarray, "E O"], operations: Sequence[str]
) -> set[Edge]:
    """Edges with an operation other than zero, from a node that anything reaches."""
    acts = np.array([name != "zero" for name in operations])
    reached, carrying = {0}, set()
    for (i, j), weights in zip(edges, table, strict=True):
        if i in reached and (weights[acts] > 0).any():
            reached.add(j)
            carrying.add((i, j))
    return carrying


def _readable_on(colour: str) -> str:
    red, green, blue = to_rgb(colour)
    return INK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"

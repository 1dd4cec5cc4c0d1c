"""How mixing weights moved during a search, part by part."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pnfs.models.architecture import Architecture, FabricArchitecture
from pnfs.models.wiring import NEIGHBOURS
from pnfs.viz.style import (
    FAINT,
    INK,
    LABEL,
    NEIGHBOUR_COLOURS,
    SMALL,
    new_figure,
    operation_colours,
    save_figure,
)

_PANELS_A_ROW = 4
_SYMBOLS = {"alpha": "α", "beta": "β"}

Moves = dict[str, Float[np.ndarray, "epochs rows candidates"]]
"""Candidate names and weights of "alpha" and "beta"."""


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
    if not history:
        raise ValueError("there are no architectures to plot")
    if epochs is not None and len(epochs) != len(history):
        raise ValueError(f"{len(epochs)} epochs for {len(history)} architectures")
    names, moves = _read(history)
    positions = range(len(history)) if epochs is None else epochs
    everyone = dict.fromkeys(name for operations in names.values() for name in operations)
    colours = {"alpha": operation_colours(everyone), "beta": NEIGHBOUR_COLOURS}
    columns = min(_PANELS_A_ROW, len(moves))
    rows = math.ceil(len(moves) / columns)
    figure = new_figure(2.5 * columns + 2.1, 3.5 * rows + 0.3)
    grid = figure.add_gridspec(2 * rows, columns)
    shared: dict[str, Axes] = {}
    for index, (part, tables) in enumerate(moves.items()):
        row, column = divmod(index, columns)
        for offset, (table, weights) in enumerate(tables.items()):
            first = shared.get(table)
            axes = figure.add_subplot(grid[2 * row + offset, column], sharex=first, sharey=first)
            shared.setdefault(table, axes)
            candidates = names[part] if table == "alpha" else NEIGHBOURS
            chosen = {name: colours[table][name] for name in candidates}
            _plot_weights(axes, positions, weights, chosen, f"{part}/{table}")
            if column == 0:
                axes.set_ylabel(f"{_SYMBOLS[table]} weight", fontsize=LABEL)
        figure.axes[-2].set_title(part, fontsize=LABEL, weight="bold", color=INK)
        figure.axes[-1].set_xlabel("epoch", fontsize=LABEL)
    handles = _handles(colours)
    figure.legend(handles=handles, loc="outside right upper", fontsize=SMALL, frameon=False)
    if out_path is not None:
        save_figure(figure, out_path)
    return figure


def _read(
    history: Sequence[Architecture],
) -> tuple[dict[str, tuple[str, ...]], dict[str, Moves]]:
    """Part -> names of its operations, and part -> its weights over the epochs."""
    first = history[0].fabrics
    for index, entry in enumerate(history):
        for where, fabric in first.items():
            found = entry.fabrics.get(where)
            if found is None or _shape(found) != _shape(fabric):
                raise ValueError(
                    f"architecture {index} has other parts, operations or cells than the first one"
                )
    names = {part: fabric.operations for fabric in first.values() for part in fabric.parts}
    moves: dict[str, Moves] = {}
    for where, fabric in first.items():
        for part in fabric.parts:
            there = [entry.fabrics[where].parts[part] for entry in history]
            alpha = np.stack([one.alpha_weights for one in there])
            moves[part] = {
                "alpha": alpha.reshape(len(history), -1, len(fabric.operations)),
                "beta": np.stack([one.beta_weights for one in there]),
            }
    return names, moves


def _shape(fabric: FabricArchitecture) -> tuple:
    return list(fabric.parts), fabric.operations, fabric.cells, fabric.alpha_shape


def _plot_weights(
    axes: Axes,
    positions: Sequence[float],
    weights: Float[np.ndarray, "epochs rows candidates"],
    colours: Mapping[str, str],
    owner: str,
) -> None:
    uniform = 1 / len(colours)
    # Weights that hardly move must not fill the axis.
    axes.update_datalim([(positions[0], uniform - 0.02), (positions[-1], uniform + 0.02)])
    for column, (name, colour) in enumerate(colours.items()):
        each = weights[:, :, column]
        if each.shape[1] > 1:
            axes.plot(positions, each, color=colour, lw=0.6, alpha=0.55)
        axes.plot(positions, each.mean(1), color=colour, lw=1.8, gid=f"{owner}/{name}")
    axes.axhline(uniform, color=INK, lw=0.8, ls=":")
    axes.tick_params(labelsize=SMALL, color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)


def _handles(colours: Mapping[str, Mapping[str, str]]) -> list[Artist]:
    handles: list[Artist] = [
        Line2D([], [], color=colour, lw=1.8, label=f"{_SYMBOLS[table]} {name}")
        for table, chosen in colours.items()
        for name, colour in chosen.items()
    ]
    return [*handles, Line2D([], [], color=INK, lw=0.8, ls=":", label="uniform")]

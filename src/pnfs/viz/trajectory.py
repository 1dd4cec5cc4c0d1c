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

from pnfs.models.architecture import PartSnapshot
from pnfs.models.fabric import NEIGHBOURS
from pnfs.viz.style import (
    FAINT,
    INK,
    NEIGHBOUR_COLOURS,
    new_figure,
    operation_colours,
    save_figure,
)

_PANELS_A_ROW = 4


def plot_trajectory(
    history: Sequence[Mapping[str, PartSnapshot]],
    out_path: str | Path | None = None,
    *,
    epochs: Sequence[float] | None = None,
) -> Figure:
    """Plots how each part's mixing weights moved during a search.

    Above, softmax(alpha): a thin line for each edge (and cell, where alpha is per cell), a thick one
    for the operation's mean. Below, softmax(beta): a thin line for each cell and neighbour, a thick one
    for the neighbour's mean. A dotted line marks uniform weights. All parts share their axes.

    Args:
        history: What `pnfs.models.architecture.snapshot` returned, in order.
        out_path: File to write, .png or .svg; None to write none.
        epochs: Where the snapshots stand on the horizontal axis; None for 0, 1, 2, ...

    Raises:
        ValueError: The history is empty, its snapshots do not have the same parts and shapes,
            `epochs` has another length, or the suffix is neither .png nor .svg.
    """
    _check_history(history, epochs)
    positions = range(len(history)) if epochs is None else epochs
    parts = list(history[0])
    names = dict.fromkeys(name for part in parts for name in history[0][part]["operations"])
    colours = {"alpha": operation_colours(names), "beta": NEIGHBOUR_COLOURS}
    columns = min(_PANELS_A_ROW, len(parts))
    rows = math.ceil(len(parts) / columns)
    figure = new_figure(2.5 * columns + 2.1, 3.5 * rows + 0.3)
    grid = figure.add_gridspec(2 * rows, columns)
    shared: dict[str, Axes] = {}
    for index, part in enumerate(parts):
        row, column = divmod(index, columns)
        candidates = {"alpha": history[0][part]["operations"], "beta": list(NEIGHBOURS)}
        for offset, (table, names_here) in enumerate(candidates.items()):
            first = shared.get(table)
            axes = figure.add_subplot(grid[2 * row + offset, column], sharex=first, sharey=first)
            shared.setdefault(table, axes)
            weights = np.asarray([entry[part][table] for entry in history])
            chosen = {name: colours[table][name] for name in names_here}
            _plot_weights(axes, positions, weights, chosen, f"{part}/{table}")
            if column == 0:
                axes.set_ylabel("α weight" if table == "alpha" else "β weight", fontsize=8)
        figure.axes[-2].set_title(part, fontsize=9, weight="bold", color=INK)
        figure.axes[-1].set_xlabel("epoch", fontsize=8)
    handles = _curve_handles(colours)
    figure.legend(handles=handles, loc="outside right upper", fontsize=7.5, frameon=False)
    if out_path is not None:
        save_figure(figure, out_path)
    return figure


def _check_history(
    history: Sequence[Mapping[str, PartSnapshot]], epochs: Sequence[float] | None
) -> None:
    if not history or not history[0]:
        raise ValueError("there are no snapshots to plot")
    if epochs is not None and len(epochs) != len(history):
        raise ValueError(f"{len(epochs)} epochs for {len(history)} snapshots")
    first = _snapshot_shape(history[0], 0)
    for index, entry in enumerate(history):
        if _snapshot_shape(entry, index) != first:
            raise ValueError(
                f"snapshot {index} has other parts, operations or shapes than the first one"
            )


def _snapshot_shape(entry: Mapping[str, PartSnapshot], index: int) -> dict[str, tuple]:
    shape = {}
    for part, one in entry.items():
        try:
            names = list(one["operations"])
            alpha, beta = np.asarray(one["alpha"], float), np.asarray(one["beta"], float)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"snapshot {index}, part {part!r} is no snapshot: {error!r}") from None
        if (
            alpha.ndim != 3
            or beta.ndim != 2
            or (alpha.shape[-1], beta.shape[-1])
            != (
                len(names),
                len(NEIGHBOURS),
            )
        ):
            raise ValueError(
                f"snapshot {index}, part {part!r}: alpha {alpha.shape} and beta {beta.shape} do not "
                f"fit {len(names)} operations and {len(NEIGHBOURS)} neighbours"
            )
        shape[part] = (names, alpha.shape, beta.shape)
    return shape


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
    axes.axhline(uniform, color=INK, lw=0.8, ls=":")
    axes.tick_params(labelsize=7, color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)


def _curve_handles(colours: Mapping[str, Mapping[str, str]]) -> list[Artist]:
    handles: list[Artist] = [
        Line2D([], [], color=colour, lw=1.8, label=f"{symbol} {name}")
        for symbol, table in (("α", "alpha"), ("β", "beta"))
        for name, colour in colours[table].items()
    ]
    return [*handles, Line2D([], [], color=INK, lw=0.8, ls=":", label="uniform")]

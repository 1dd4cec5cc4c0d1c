"""How mixing weights moved during a search, part by part."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pnfs.errors import PnfsError
from pnfs.models.architecture import Architecture
from pnfs.models.wiring import NEIGHBOURS
from pnfs.viz.style import (
    INK,
    LABEL,
    NEIGHBOUR_COLOURS,
    SMALL,
    new_figure,
    operation_colours,
    save_figure,
)

_SYMBOLS = {"alpha": "α", "beta": "β"}
Moves = Float[np.ndarray, "epochs rows candidates"]


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
        raise PnfsError("there are no architectures to plot")
    if epochs is not None and len(epochs) != len(history):
        raise PnfsError(f"{len(epochs)} epochs for {len(history)} architectures")
    for index, entry in enumerate(history):
        if _shapes(entry) != _shapes(history[0]):
            raise PnfsError(
                f"architecture {index} has other parts, operations or cells than the first one"
            )
    fabrics = history[0].fabrics
    parts = [(where, part) for where, fabric in fabrics.items() for part in fabric.parts]
    operations = dict.fromkeys(name for fabric in fabrics.values() for name in fabric.operations)
    colours = {"alpha": operation_colours(operations), "beta": NEIGHBOUR_COLOURS}
    figure = new_figure(2.5 * len(parts) + 2.1, 3.8)
    panels = figure.subplots(2, len(parts), sharex=True, sharey="row", squeeze=False)
    for (where, part), (above, below) in zip(parts, panels.T, strict=True):
        found = [entry.fabrics[where].parts[part] for entry in history]
        alpha = np.stack([each.alpha_weights for each in found])
        weights = {
            "alpha": alpha.reshape(len(history), -1, alpha.shape[-1]),
            "beta": np.stack([each.beta_weights for each in found]),
        }
        names = {"alpha": fabrics[where].operations, "beta": NEIGHBOURS}
        for axes, (table, moves) in zip((above, below), weights.items(), strict=True):
            chosen = {name: colours[table][name] for name in names[table]}
            _plot_weights(axes, epochs or range(len(history)), moves, chosen, f"{part}/{table}")
        above.set_title(part, fontsize=LABEL, weight="bold", color=INK)
        below.set_xlabel("epoch", fontsize=LABEL)
    handles = []
    for axes, (table, chosen) in zip(panels[:, 0], colours.items(), strict=True):
        axes.set_ylabel(f"{_SYMBOLS[table]} weight", fontsize=LABEL)
        for name, colour in chosen.items():
            label = f"{_SYMBOLS[table]} {name}"
            handles.append(Line2D([], [], color=colour, lw=1.8, label=label))
    handles.append(Line2D([], [], color=INK, lw=0.8, ls=":", label="uniform"))
    figure.legend(handles=handles, loc="outside right upper", fontsize=SMALL, frameon=False)
    if out_path is not None:
        save_figure(figure, out_path)
    return figure


def _shapes(architecture: Architecture) -> list:
    return [
        (where, list(fabric.parts), fabric.operations, fabric.cells, fabric.alpha_shape)
        for where, fabric in architecture.fabrics.items()
    ]


def _plot_weights(
    axes: Axes, positions: Sequence[float], moves: Moves, colours: Mapping[str, str], owner: str
) -> None:
    uniform = 1 / len(colours)
    # Weights that hardly move must not fill the axis.
    axes.update_datalim([(positions[0], uniform - 0.02), (positions[-1], uniform + 0.02)])
    for column, (name, colour) in enumerate(colours.items()):
        each = moves[:, :, column]
        if each.shape[1] > 1:
            axes.plot(positions, each, color=colour, lw=0.6, alpha=0.55)
        axes.plot(positions, each.mean(1), color=colour, lw=1.8, gid=f"{owner}/{name}")
    axes.axhline(uniform, color=INK, lw=0.8, ls=":")
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)

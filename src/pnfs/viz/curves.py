"""Curves: what was logged while training, how mixing weights moved, and how errors spread."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pnfs.data.images import DataError
from pnfs.errors import PnfsError
from pnfs.viz import style
from pnfs.viz.poses import joint_sides
from pnfs.viz.style import COLOURS, INK, LABEL, SMALL, new_figure, plain_axes, save_figure

if TYPE_CHECKING:  # The page about runs need not wait for torch.
    from pnfs.evaluation.pck import Errors
    from pnfs.evaluation.person_metric import Criterion
    from pnfs.models.architecture import Architecture

LOGGED = {
    "train/loss": "training loss",
    "val/loss": "validation loss",
    "val/score": "validation score",
}
"""Drawn metrics -> what an axis says."""


def read_metrics(path: Path, names: Collection[str] | None = None) -> dict[str, pd.Series]:
    """A `metrics.csv` of Lightning's CSVLogger: metric, of `names` if given -> its last value by epoch.

    A row without an epoch, such as a learning rate's, counts to the epoch of the next row that has one. A last row
    that is cut short, as a killed run leaves it, is left out, as is the suffix "_epoch" that Lightning adds.

    Raises:
        DataError: The file cannot be read, has no epochs, or a cell is not a number.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # Not pandas: of its time per file nearly all would go into a hundred columns that no chart shows.
        rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
        told = [row["epoch"] for row in rows if row.get("epoch")]
        if not told:
            raise ValueError("no epoch in it")
        epoch = int(float(told[-1]))
        values: dict[str, dict[int, float]] = {}
        for number, row in reversed(list(enumerate(rows, start=2))):
            if None in row:
                raise ValueError(f"line {number} has more cells than the header")
            epoch = int(float(row["epoch"] or epoch))
            for column, cell in row.items():
                name = column.removesuffix("_epoch")
                if cell and column not in ("epoch", "step") and (names is None or name in names):
                    values.setdefault(name, {}).setdefault(epoch, float(cell))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: is no metrics.csv of Lightning's CSVLogger: {error}") from None
    return {name: pd.Series(each).iloc[::-1].dropna() for name, each in values.items()}


def plot_curves(metrics_csv: Path, out_path: Path | str) -> None:
    """Draws the logged ones of training and validation loss and validation score, as PNG or SVG by the suffix.

    Raises:
        DataError: The metrics cannot be read, or none of these was logged.
        PnfsError: Another suffix, or the picture cannot be written.
    """
    curves = read_metrics(metrics_csv, LOGGED)
    panels = [[n for n in curves if ("loss" in n) == is_loss] for is_loss in (True, False)]
    panels = [names for names in panels if names]
    if not panels:
        raise DataError(f"{metrics_csv}: none of {', '.join(LOGGED)} was logged")
    figure = new_figure(5.2 * len(panels), 3.9)
    for axes, names in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for colour, name in zip(COLOURS, sorted(names), strict=False):
            curve, is_loss = curves[name], "loss" in name
            best = curve.idxmin() if is_loss else curve.idxmax()
            label = f"{name}: best {curve.min() if is_loss else curve.max():.3g}, epoch {best}"
            axes.plot(
                curve, color=colour, marker="o" if len(curve) <= 60 else "", ms=3.5, label=label
            )
        loss_axes(axes, [curves[name] for name in names], names[0])
        plain_axes(axes, x_label="epoch (from 0)", y_label="loss" if is_loss else LOGGED[names[0]])
        axes.legend(frameon=False, fontsize=SMALL + 1)
    save_figure(figure, out_path)


def loss_axes(axes: Axes, curves: Sequence[pd.Series], metric: str) -> None:
    """Whole epochs across; losses on a logarithmic scale where all are positive."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "loss" in metric and all((curve > 0).all() for curve in curves):
        axes.set_yscale("log")


# --- mixing weights during a search


def plot_trajectory(
    history: Sequence["Architecture"],
    out_path: str | Path | None = None,
    *,
    epochs: Sequence[float] | None = None,
) -> Figure:
    """Plots how each part's mixing weights moved during a search, at `epochs` (0, 1, 2, ...).

    Above, softmax(alpha): a thin line for each edge (and cell, where alpha is per cell), a thick one
    for the operation's mean. Below, softmax(beta): a thin line for each cell and neighbour, a thick one
    for the neighbour's mean. A dotted line marks uniform weights. All parts share their axes.

    Raises:
        PnfsError: The architectures do not have the same parts and shapes, or the suffix is neither .png nor .svg.
    """
    fabrics = history[0].fabrics
    parts = [(where, part) for where, fabric in fabrics.items() for part in fabric.parts]
    operations = dict.fromkeys(name for fabric in fabrics.values() for name in fabric.operations)
    colours = (style.operation_colours(operations), style.NEIGHBOUR_COLOURS)
    figure = new_figure(2.5 * len(parts) + 2.1, 3.8)
    panels = figure.subplots(2, len(parts), sharex=True, sharey="row", squeeze=False)
    for (where, part), pair in zip(parts, panels.T, strict=True):
        try:
            found = [entry.fabrics[where].parts[part] for entry in history]
            alpha = np.stack([each.alpha_weights for each in found])
            beta = np.stack([each.beta_weights for each in found])
        except (KeyError, ValueError):
            raise PnfsError("the architectures have unlike parts, operations or cells") from None
        alpha = alpha.reshape(len(history), -1, alpha.shape[-1])
        names = fabrics[where].operations, tuple(style.NEIGHBOUR_COLOURS)
        for axes, kind, moves, own, found in zip(
            pair, ("alpha", "beta"), (alpha, beta), names, colours, strict=True
        ):
            chosen = {f"{part}/{kind}/{name}": found[name] for name in own}
            _plot_weights(axes, epochs or range(len(history)), moves, chosen)
        pair[0].set_title(part, fontsize=LABEL, weight="bold", color=INK)
        pair[1].set_xlabel("epoch", fontsize=LABEL)
    handles = []
    for axes, symbol, chosen in zip(panels[:, 0], "αβ", colours, strict=True):
        axes.set_ylabel(f"{symbol} weight", fontsize=LABEL)
        handles += [
            Line2D([], [], color=c, lw=1.8, label=f"{symbol} {n}") for n, c in chosen.items()
        ]
    handles.append(Line2D([], [], color=INK, lw=0.8, ls=":", label="uniform"))
    figure.legend(handles=handles, loc="outside right upper", fontsize=SMALL, frameon=False)
    if out_path is not None:
        save_figure(figure, out_path)
    return figure


def _plot_weights(
    axes: Axes,
    positions: Sequence[float],
    moves: Float[np.ndarray, "epochs rows candidates"],
    colours: Mapping[str, str],
) -> None:
    uniform = 1 / len(colours)
    # Weights that hardly move must not fill the axis.
    axes.update_datalim([(positions[0], uniform - 0.02), (positions[-1], uniform + 0.02)])
    for each, (name, colour) in zip(np.moveaxis(moves, 2, 0), colours.items(), strict=True):
        if each.shape[1] > 1:
            axes.plot(positions, each, color=colour, lw=0.6, alpha=0.55)
        axes.plot(positions, each.mean(1), color=colour, lw=1.8, gid=name)
    axes.axhline(uniform, color=INK, lw=0.8, ls=":")
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)


# --- errors


def plot_joint_rates(
    path: Path | str, errors: "Errors", criterion: "Criterion", title: str
) -> None:
    """Draws the share of right joints: a bar a joint, in the colour of the person's side."""
    skeleton = errors.skeleton
    figure = new_figure(6.4, 0.28 * len(skeleton) + 1.4, title=title)
    axes = figure.subplots()
    rates, counts = errors.rates(criterion.thresholds, None)
    colours = [style.side_hex(side) for side in joint_sides(skeleton)]
    places = range(len(skeleton))
    bars = axes.barh(places, np.nan_to_num(rates), 0.8, color=colours, ec=INK, lw=0.4)
    known = zip(rates, counts, strict=True)
    texts = [f"{rate:.1f}  ({count:,})" if count else "no labels" for rate, count in known]
    axes.bar_label(bars, texts, padding=2, fontsize=SMALL)
    axes.set_yticks(places, [name.replace("_", " ") for name in skeleton.joints])
    axes.invert_yaxis()
    axes.set(xlim=(0, 115), xticks=range(0, 101, 20))
    plain_axes(axes, x_label=f"right joints in percent ({criterion.label}); (labels)", grid="x")
    save_figure(figure, path)

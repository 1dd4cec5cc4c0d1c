"""Curves: what was logged while training, how mixing weights moved, scores against costs."""

import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pnfs.data.images import DataError
from pnfs.errors import PnfsError
from pnfs.viz import style
from pnfs.viz.style import COLOURS, INK, LABEL, SMALL, new_figure, plain_axes, save_figure

if TYPE_CHECKING:  # The page about runs need not wait for torch.
    from pnfs.models.architecture import Architecture

LOGGED = {"train/loss": "training loss", "val/loss": "validation loss", "val/score": "validation score"}
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

    A `DataError` says that the metrics cannot be read, or that none of these was logged.
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
            marker = "o" if len(curve) <= 60 else ""
            axes.plot(curve, color=colour, marker=marker, ms=3.5, label=label)
        loss_axes(axes, [curves[name] for name in names], names[0])
        plain_axes(axes, x_label="epoch (from 0)", y_label="loss" if is_loss else LOGGED[names[0]])
        axes.legend(frameon=False, fontsize=SMALL + 1)
    save_figure(figure, out_path)


def loss_axes(axes: Axes, curves: Sequence[pd.Series], metric: str) -> None:
    """Whole epochs across; losses on a logarithmic scale where all are positive."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "loss" in metric and all((curve > 0).all() for curve in curves):
        axes.set_yscale("log")


def plot_seeds(
    axes: Axes, curves: Sequence[pd.Series], colour: str, label: str = "", gid: str | None = None
) -> pd.Series:
    """Draws the mean of several seeds' curves with their range; a single seed, which may be luck, thin and dashed.

    Returns the mean, over the epochs that all seeds have; where there are none, the first seed alone.
    """
    seeds = pd.concat(curves, axis=1, join="inner")
    seeds = curves[0].to_frame() if seeds.empty else seeds
    # As many points as can be seen.
    seeds = seeds.iloc[np.linspace(0, len(seeds) - 1, min(len(seeds), 120)).round().astype(int)]
    mean, several = seeds.mean(axis=1), seeds.shape[1] > 1
    style = {"lw": 1.6, "ls": "-"} if several else {"lw": 1.1, "ls": (0, (4, 2))}
    label = label if several or not label else f"{label} (one seed)"
    marker = "o" if len(seeds) == 1 else None
    axes.plot(mean, marker=marker, ms=4, color=colour, label=label, gid=gid, **style)
    if several:
        ends = seeds.min(axis=1), seeds.max(axis=1)
        axes.fill_between(seeds.index, *ends, color=colour, lw=0, alpha=0.2, gid=gid)
    return mean


def plot_mean(
    axes: Axes, x: float, y: float, look: tuple[str, str], *, xerr: Any = None, yerr: Any = None, **more: Any
) -> Sequence[Artist]:
    """Draws a mean as a marker with its deviation; hollow for one seed, whose deviation is None or nan."""
    (colour, marker), std = look, {k: v for k, v in (("xerr", xerr), ("yerr", yerr)) if not pd.isna(v)}
    more = {"fmt": marker, "color": colour, "mfc": colour if std else "white", "ms": 7, "clip_on": False, **more}
    return axes.errorbar(x, y, **std, **more).get_children()


def plot_trajectory(
    history: Sequence["Architecture"], out_path: str | Path | None = None, *, epochs: Sequence[float] | None = None
) -> Figure:
    """Plots how each part's mixing weights moved during a search, at `epochs` (0, 1, 2, ...).

    Above, softmax(alpha): a thin line for each edge (and cell, where alpha is per cell), a thick one
    for the operation's mean. Below, softmax(beta): a thin line for each cell and neighbour, a thick one
    for the neighbour's mean. A dotted line marks uniform weights. All parts share their axes.

    Raises:
        PnfsError: The architectures do not have the same parts and shapes, or the suffix is neither .png nor .svg.
    """
    fabrics, epochs = history[0].fabrics, epochs or range(len(history))
    parts = [(where, part) for where, fabric in fabrics.items() for part in fabric.parts]
    operations = dict.fromkeys(name for fabric in fabrics.values() for name in fabric.operations)
    kinds = {"alpha": style.operation_colours(operations), "beta": style.NEIGHBOUR_COLOURS}
    figure = new_figure(2.5 * len(parts) + 2.1, 3.8)
    panels = figure.subplots(2, len(parts), sharex=True, sharey="row", squeeze=False)
    for (where, part), pair in zip(parts, panels.T, strict=True):
        for axes, (kind, colours) in zip(pair, kinds.items(), strict=True):
            try:
                found = [entry.fabrics[where].parts[part] for entry in history]
                moves = np.stack([getattr(each, f"{kind}_weights") for each in found])
            except (KeyError, ValueError):
                raise PnfsError("the architectures have unlike parts, operations or cells") from None
            own = list(fabrics[where].operations if kind == "alpha" else colours)
            uniform = 1 / len(own)
            # Weights that hardly move must not fill the axis.
            axes.update_datalim([(epochs[0], uniform - 0.02), (epochs[-1], uniform + 0.02)])
            for name, rows in zip(own, np.moveaxis(moves.reshape(len(history), -1, len(own)), 2, 0), strict=True):
                if rows.shape[1] > 1:
                    axes.plot(epochs, rows, color=colours[name], lw=0.6, alpha=0.55)
                axes.plot(epochs, rows.mean(1), color=colours[name], lw=1.8, gid=f"{part}/{kind}/{name}")
            axes.axhline(uniform, color=INK, lw=0.8, ls=":")
            axes.tick_params(labelsize=SMALL)
            axes.spines[["top", "right"]].set_visible(False)
            axes.margins(x=0.02)
        pair[0].set_title(part, fontsize=LABEL, weight="bold", color=INK)
        pair[1].set_xlabel("epoch", fontsize=LABEL)
    handles = []
    for axes, symbol, chosen in zip(panels[:, 0], "αβ", kinds.values(), strict=True):
        axes.set_ylabel(f"{symbol} weight", fontsize=LABEL)
        handles += [Line2D([], [], color=c, lw=1.8, label=f"{symbol} {n}") for n, c in chosen.items()]
    handles.append(Line2D([], [], color=INK, lw=0.8, ls=":", label="uniform"))
    figure.legend(handles=handles, loc="outside right upper", fontsize=SMALL, frameon=False)
    if out_path is not None:
        save_figure(figure, out_path)
    return figure

"""Training curves from the `metrics.csv` that Lightning's CSVLogger writes."""

import csv
from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pnfs.data.images import DataError
from pnfs.viz.style import COLOURS, SMALL, new_figure, plain_axes, save_figure

_SERIES = ("train/loss", "val/loss", "val/score")


def read_metrics(csv_path: Path | str, names: Container[str] | None = None) -> dict[str, pd.Series]:
    """The values of every metric, without the rows in which it was not logged.

    A row without an epoch, such as a learning rate's, counts to the epoch of the next row that
    has one. A last row that is cut short, as a killed run leaves it, is left out.

    Args:
        csv_path: Columns `epoch`, `step` and one per metric, blank where a row does not log it.
        names: Metrics to return; None for all.

    Returns:
        Metric -> float64 values by epoch, in the file's order. Metrics that were never logged are left
        out; a logged nan is a value.

    Raises:
        DataError: The file cannot be read, has no epochs, or a cell is not a number.
    """
    path = Path(csv_path)
    header, cells = _read_cells(path)
    logged = cells != ""
    column = header.index("epoch") if "epoch" in header else None
    if column is None or (len(cells) and not logged[:, column].any()):
        raise DataError(
            f"{path}: there are no epochs; a metrics.csv of Lightning's CSVLogger is expected"
        )
    try:
        values = np.where(logged, cells, "nan").astype(float)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    # The next row that has an epoch; at the end the last one.
    epochs = pd.Series(values[:, column]).bfill().ffill().to_numpy()
    return {
        name: pd.Series(values[here, n], epochs[here], name=name)
        for n, (name, here) in enumerate(zip(header, logged.T, strict=True))
        if name not in ("epoch", "step") and (names is None or name in names) and here.any()
    }


def _read_cells(path: Path) -> tuple[list[str], np.ndarray]:
    """The header, and all cells as text, (rows, columns)."""
    try:
        text = path.read_text(encoding="utf-8")
        # What stands behind the last end of a line was not written to its end.
        header, *rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines())) or [[]]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from None
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(
                f"{path}: line {line} has {len(row)} cells, the header {len(header)}; remove that line"
            )
    return header, np.array(rows, dtype=str).reshape(len(rows), len(header))


def plot_curves(metrics_csv: Path | str, out_path: Path | str) -> None:
    """Draws losses on one axis and scores on another, side by side, as PNG or SVG by the suffix.

    Of training and validation loss and validation score those that were logged. The losses' axis is
    logarithmic unless one of them is not positive. Scores are taken as percent if one is above 1, else as
    fractions.

    Args:
        metrics_csv: See `read_metrics`.
        out_path: The picture; folders are made as needed.

    Raises:
        DataError: The metrics cannot be read, or do not hold what is to be drawn.
        PnfsError: Another suffix, or the picture cannot be written.
    """
    logged = read_metrics(metrics_csv)
    # Lightning adds the suffix where a metric is logged both per step and per epoch.
    columns = {name: name if name in logged else f"{name}_epoch" for name in _SERIES}
    curves = {name: logged[column] for name, column in columns.items() if column in logged}
    if not curves:
        raise DataError(
            f"{metrics_csv}: {', '.join(_SERIES)} not logged; there are {', '.join(logged) or 'no values'}"
        )
    losses = {name: curve for name, curve in curves.items() if "loss" in name}
    scores = {name: curve for name, curve in curves.items() if "loss" not in name}
    panels = [group for group in (losses, scores) if group]
    figure = new_figure(5.2 * len(panels), 3.9)
    for axes, group in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, group, is_loss=group is losses)
    save_figure(figure, out_path)


def _draw(axes: Axes, curves: Mapping[str, pd.Series], *, is_loss: bool) -> None:
    values = pd.concat(list(curves.values()))
    percent = not is_loss and bool((values > 1).any())
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        label = f"{name}: nan throughout"
        if curve.notna().any():
            row = int(np.nanargmin(curve) if is_loss else np.nanargmax(curve))
            best = f"{curve.iloc[row]:.1f} %" if percent else f"{curve.iloc[row]:.3g}"
            label = f"{name}: best {best}, epoch {curve.index[row]:.0f}"
        # A curve of few values shows each of them.
        marker = "o" if len(curve) <= 60 else None
        axes.plot(curve, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=label)
    y_label = "score (%)" if percent else "score (fraction)"
    if is_loss:
        positive = not (values <= 0).any()
        y_label = "loss (log scale)" if positive else "loss"
        axes.set_yscale("log" if positive else "linear")
    plain_axes(axes, x_label="epoch (from 0)", y_label=y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=SMALL + 1)

"""Training curves from the `metrics.csv` that Lightning's CSVLogger writes."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pnfs.data.persons import DataError
from pnfs.viz.style import COLOURS, SMALL, new_figure, plain_axes, save_figure

Progress = Literal["epoch", "step"]
Curve = tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]

DEFAULT_SERIES = ("train/loss", "val/loss", "val/score")

_AXIS_LABELS: dict[Progress, str] = {"epoch": "epoch (from 0)", "step": "optimiser step"}
_FEW_POINTS = 60
"""A curve of at most so many values shows each of them as a dot."""


def read_metrics(csv_path: Path | str, *, against: Progress = "epoch") -> dict[str, Curve]:
    """The values of every metric, without the rows in which it was not logged.

    A row without an epoch, such as a learning rate's, counts to the epoch of the next row that
    has one. A last row that is cut short, as a killed run leaves it, is left out.

    Args:
        csv_path: Columns `epoch`, `step` and one per metric, blank where a row does not log it.
        against: The column that goes with the values.

    Returns:
        Metric -> (epochs or steps, values), both float64 (N,), in the file's order. Metrics that
        were never logged are left out; a logged nan is a value.

    Raises:
        DataError: The file cannot be read, has no column `epoch` or `step`, or a cell is not a
            number; the message names the row.
    """
    path = Path(csv_path)
    header, records = _read_records(path)
    missing = [name for name in ("epoch", "step") if name not in header]
    if missing:
        raise DataError(
            f"{path}: there is no column {' and no column '.join(missing)}; a metrics.csv of "
            "Lightning's CSVLogger is expected"
        )
    columns = {
        name: [(row, _number(path, row, name, record[column])) for row, record in enumerate(records)
               if record[column].strip()]
        for column, name in enumerate(header)
    }  # fmt: skip
    if records and not columns[against]:
        raise DataError(f"{path}: the column {against} is blank in all rows")
    known = np.array(columns[against]).reshape(-1, 2)
    found = {}
    for name, cells in columns.items():
        if name not in ("epoch", "step") and cells:
            rows, values = np.array(cells).T
            # The next row that has an epoch; at the end the last one.
            following = np.minimum(np.searchsorted(known[:, 0], rows), len(known) - 1)
            found[name] = (known[following, 1], values)
    return found


def _number(path: Path, row: int, name: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise DataError(f"{path}: line {row + 2}: {name} is {cell!r}, not a number") from None


def plot_curves(
    metrics_csv: Path | str,
    out_path: Path | str,
    *,
    series: Sequence[str] | None = None,
    against: Progress = "epoch",
    title: str | None = None,
) -> None:
    """Draws losses on one axis and scores on another, side by side, as PNG or SVG by the suffix.

    The losses' axis is logarithmic unless one of them is not positive. Scores are taken as
    percent if one is above 1, else as fractions.

    Args:
        metrics_csv: See `read_metrics`.
        out_path: The picture; folders are made as needed.
        series: Metrics to draw; a metric logged per step and per epoch also goes by its bare name,
            which means its epoch means. One with "loss" in its name is a loss, any other a score.
            None draws those of `DEFAULT_SERIES` that were logged.
        against: What runs along the horizontal axis.
        title: Above the picture; None for none.

    Raises:
        DataError: The metrics cannot be read, or do not hold what is to be drawn.
        ValueError: Another suffix, or an empty `series`.
        OSError: The picture cannot be written.
    """
    curves = _chosen(Path(metrics_csv), read_metrics(metrics_csv, against=against), series)
    losses = {name: curve for name, curve in curves.items() if "loss" in name}
    scores = {name: curve for name, curve in curves.items() if "loss" not in name}
    panels = [(kind, group) for kind, group in (("loss", losses), ("score", scores)) if group]
    figure = new_figure(5.2 * len(panels), 3.9, title=title)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (kind, group) in zip(all_axes, panels, strict=True):
        _draw(axes, group, is_loss=kind == "loss", against=against)
    save_figure(figure, out_path)


def _read_records(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *records = list(csv.reader(file)) or [[]]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not a CSV file ({error})") from None
    if records and len(records[-1]) < len(header):
        records.pop()
    for row, record in enumerate(records):
        if len(record) != len(header):
            raise DataError(
                f"{path}: line {row + 2} has {len(record)} cells, the header {len(header)}; "
                "remove that line"
            )
    return header, records


def _chosen(
    path: Path, logged: Mapping[str, Curve], series: Sequence[str] | None
) -> dict[str, Curve]:
    if series is not None and not series:
        raise ValueError("no series to draw")
    # Lightning adds the suffix where a metric is logged both per step and per epoch.
    found = {
        name: logged[column]
        for name in series or DEFAULT_SERIES
        for column in (name if name in logged else f"{name}_epoch",)
        if column in logged
    }
    missing = [name for name in series or DEFAULT_SERIES if name not in found]
    if not found or (series is not None and missing):
        raise DataError(
            f"{path}: {', '.join(missing)} not logged; there are {', '.join(logged) or 'no values'}"
        )
    return found


def _draw(axes: Axes, curves: Mapping[str, Curve], *, is_loss: bool, against: Progress) -> None:
    values = np.concatenate([values for _, values in curves.values()])
    percent = not is_loss and bool((values > 1).any())
    for number, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(
            x,
            y,
            color=COLOURS[number % len(COLOURS)],
            linewidth=1.6,
            marker="o" if len(x) <= _FEW_POINTS else None,
            markersize=3.5,
            label=_curve_label(name, x, y, is_loss=is_loss, percent=percent, against=against),
        )
    label = "score (%)" if percent else "score (fraction)"
    if is_loss:
        positive = not (values <= 0).any()
        label = "loss (log scale)" if positive else "loss"
        axes.set_yscale("log" if positive else "linear")
    plain_axes(axes, x_label=_AXIS_LABELS[against], y_label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=SMALL + 1)


def _curve_label(
    name: str,
    x: Float[np.ndarray, " N"],
    y: Float[np.ndarray, " N"],
    *,
    is_loss: bool,
    percent: bool,
    against: Progress,
) -> str:
    """The metric's name with its best value and where that was reached."""
    if np.isnan(y).all():
        return f"{name}: nan throughout"
    best = int(np.nanargmin(y) if is_loss else np.nanargmax(y))
    value = f"{y[best]:.1f} %" if percent else f"{y[best]:.3g}"
    return f"{name}: best {value}, {against} {x[best]:.0f}"

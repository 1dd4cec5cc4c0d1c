"""Charts of the page about runs: score against cost, and training curves, row by row.

Rows of several seeds have filled markers and solid lines, with their spread; a single seed, which tells no
rows apart, has a hollow marker and a dashed line.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pnfs.viz.style import COLOURS, MARKERS, RC, new_figure, plain_axes

if TYPE_CHECKING:
    from pnfs.viz.runs_page import Row

_MAX_POINTS = 120
# Metric -> what its axis says.
CURVES = {
    "val/score": "validation score while training (%)",
    "train/loss": "training loss",
    "val/loss": "validation loss",
}


def draw_charts(rows: Sequence["Row"]) -> list[Markup]:
    """The charts of one benchmark as SVG; what belongs to a row has its number in `data-row`."""
    charts = [_trade_off(rows)] if any(row.macs and row.scores for row in rows) else []
    logged = {str(metric) for row in rows for curves in row.curves for metric in curves}
    return charts + [_curve_chart(rows, metric) for metric in CURVES if metric in logged]


def _trade_off(rows: Sequence["Row"]) -> Markup:
    costed = [row for row in rows if row.macs and row.scores]
    names = {card.score_name for row in costed for card in row.cards if card.score_name}
    figure = new_figure(4.6, 3.2)
    axes = figure.subplots()
    label = f"{', '.join(sorted(names))} (%)"
    plain_axes(axes, x_label="MACs of one image (G)", y_label=label)
    costs = [(row.macs or 0) / 1e9 for row in costed]
    axes.plot(costs, [row.mean or 0.0 for row in costed], ".", color="0.75", ms=4, zorder=1)
    for row, x in zip(costed, costs, strict=True):
        if row.colour is None:
            continue
        marker = MARKERS[COLOURS.index(row.colour)]
        fill = "white" if row.deviation is None else row.colour
        _named(row, axes.errorbar(
            x, row.mean or 0.0, row.deviation, fmt=marker, color=row.colour, mfc=fill, ms=7,
            clip_on=False,
        ).get_children())  # fmt: skip
    axes.margins(0.12)
    axes.set_xlim(left=0)
    return _inline(figure, f"{rows[0].number} trade-off")


def _curve_chart(rows: Sequence["Row"], metric: str) -> Markup:
    figure = new_figure(4.6, 3.2)
    axes = figure.subplots()
    plain_axes(axes, x_label="epoch (from 0)", y_label=CURVES[metric])
    lowest = np.inf
    for row in rows:
        if row.colour is None:
            continue
        curves = [each[metric].groupby(level=0).last() for each in row.curves if metric in each]
        if not curves:
            continue
        # Epochs that all seeds have; where there are none, the first seed alone.
        seeds = pd.concat(curves, axis=1, join="inner")
        seeds = curves[0].to_frame() if seeds.empty else seeds
        kept = np.linspace(0, len(seeds) - 1, min(len(seeds), _MAX_POINTS)).round().astype(int)
        seeds = seeds.iloc[kept]
        several = seeds.shape[1] > 1
        style = {
            "color": row.colour,
            "lw": 1.6 if several else 1.1,
            "ls": "-" if several else (0, (4, 2)),
        }
        marker = "o" if len(seeds) == 1 else None
        _named(row, axes.plot(seeds.mean(axis=1), marker=marker, ms=4, **style))
        if several:
            low, high = seeds.min(axis=1), seeds.max(axis=1)
            band = axes.fill_between(seeds.index, low, high, color=row.colour, lw=0, alpha=0.2)
            _named(row, [band])
        lowest = min(lowest, float(seeds.to_numpy().min()))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.3, max(1.3, axes.get_xlim()[1]))
    if "loss" in metric and lowest > 0:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    return _inline(figure, f"{rows[0].number} {metric}")


def _named(row: "Row", artists: Sequence[Artist]) -> None:
    for artist in artists:
        artist.set_gid(f"row-{row.number}")


def _inline(figure: Figure, name: str) -> Markup:
    """The figure as an `<svg>` element; `name` keeps its ids apart from those of other charts."""
    file = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with mpl.rc_context({**RC, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="row-(\d+)">', r'<g class="row" data-row="\1">', svg)
    # Other charts of the page have the same names.
    return Markup(re.sub(r' id="[A-Za-z][A-Za-z0-9.]*_\d+"', "", svg))

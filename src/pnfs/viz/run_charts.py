"""Charts of the page about runs: score against cost, and training curves, row by row.

Rows of several seeds have filled markers and solid lines, with their spread; a single seed, which tells no
rows apart, has a hollow marker and a dashed line.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from pnfs.viz.curves import Curve
from pnfs.viz.style import COLOURS, MARKERS, figure_as_svg, new_figure, plain_axes

if TYPE_CHECKING:
    from pnfs.viz.dashboard import Row

_SIZE = (4.6, 3.2)
_MAX_POINTS = 120
_OTHERS = "0.75"
_CURVES = {
    "val/score": "validation score while training (%)",
    "train/loss": "training loss",
    "val/loss": "validation loss",
}


def draw_charts(rows: Sequence["Row"]) -> list[Markup]:
    """The charts of one benchmark as SVG; what belongs to a row has its number in `data-row`."""
    charts = [_trade_off(rows)] if any(row.macs and row.scores for row in rows) else []
    charts += [
        _curve_chart(rows, metric, label)
        for metric, label in _CURVES.items()
        if any(metric in curves for row in rows for curves in row.curves)
    ]
    return charts


def _trade_off(rows: Sequence["Row"]) -> Markup:
    figure = new_figure(*_SIZE)
    axes = figure.subplots()
    costed = [row for row in rows if row.macs and row.scores]
    names = {card.score_name for row in costed for card in row.cards if card.score_name}
    label = f"{', '.join(sorted(names))} (%)"
    plain_axes(axes, x_label="MACs of one image (G, log scale)", y_label=label)
    others = [((row.macs or 0) / 1e9, row.mean) for row in costed if row.colour is None]
    if others:
        axes.plot(*zip(*others, strict=True), ".", color=_OTHERS, ms=4, zorder=1)
    for row in costed:
        if row.colour is None or row.macs is None or row.mean is None:
            continue
        x, marker = row.macs / 1e9, MARKERS[COLOURS.index(row.colour)]
        filled = row.colour if row.deviation is not None else "white"
        style = {"color": row.colour, "markerfacecolor": filled, "ms": 7, "clip_on": False}
        _named(row, axes.plot(x, row.mean, marker, **style))
        if row.deviation:
            low, high = row.mean - row.deviation, row.mean + row.deviation
            _named(row, axes.plot([x, x], [low, high], color=row.colour, lw=1.4))
    axes.set_xscale("log")
    axes.margins(0.12)
    costs = [row.macs / 1e9 for row in costed if row.macs]
    if max(costs) < 4 * min(costs):  # A log axis without two ticks tells nothing.
        axes.set_xlim(min(costs) / 2, max(costs) * 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    return _inline(figure, rows, "trade-off")


def _curve_chart(rows: Sequence["Row"], metric: str, label: str) -> Markup:
    figure = new_figure(*_SIZE)
    axes = figure.subplots()
    plain_axes(axes, x_label="epoch (from 0)", y_label=label)
    lowest, last = np.inf, 1.0
    for row in rows:
        curves = [each[metric] for each in row.curves if metric in each]
        if not curves or row.colour is None:
            continue
        epochs, values = _together(curves)
        style = {"color": row.colour, "lw": 1.6 if len(curves) > 1 else 1.1}
        style["ls"] = "-" if len(curves) > 1 else (0, (4, 2))
        if len(epochs) == 1:
            style |= {"marker": "o", "ms": 4}
        _named(row, axes.plot(epochs, values.mean(0), **style))
        if len(curves) > 1:
            band = axes.fill_between(
                epochs, values.min(0), values.max(0), color=row.colour, lw=0, alpha=0.2
            )
            _named(row, [band])
        lowest, last = min(lowest, values.min()), max(last, epochs[-1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.3, last + 0.3)
    if "loss" in metric and lowest > 0:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    return _inline(figure, rows, metric)


def _together(
    curves: Sequence[Curve],
) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, "seeds E"]]:
    """Epochs that all seeds have, at most `_MAX_POINTS` of them, and each seed's values there."""
    by_epoch = [dict(zip(x.tolist(), y.tolist(), strict=True)) for x, y in curves]
    epochs = sorted(set.intersection(*map(set, by_epoch))) or sorted(by_epoch[0])
    if not all(epoch in each for each in by_epoch for epoch in epochs):
        by_epoch = by_epoch[:1]
    kept = np.unique(np.linspace(0, len(epochs) - 1, _MAX_POINTS).round().astype(int))
    chosen = [epochs[n] for n in kept]
    return np.array(chosen), np.array([[each[epoch] for epoch in chosen] for each in by_epoch])


def _named(row: "Row", artists: Sequence[Artist]) -> None:
    for artist in artists:
        artist.set_gid(f"row-{row.number}")


def _inline(figure: Figure, rows: Sequence["Row"], name: str) -> Markup:
    labels: Mapping[int, str] = {row.number: row.label for row in rows}

    def replaced(match: re.Match[str]) -> str:
        number = int(match[1])
        return f'<g class="row" data-row="{number}"><title>{escape(labels[number])}</title>'

    svg = re.sub(r'<g id="row-(\d+)">', replaced, figure_as_svg(figure, f"{rows[0].number} {name}"))
    # Other charts of the page have the same names.
    return Markup(re.sub(r' id="[A-Za-z][A-Za-z0-9.]*_\d+"', "", svg))

"""One HTML page about many runs: a table to sort and filter, the trade-off, curves, pictures.

The page holds all that it shows and asks no server for anything, so that it opens from a file, can be sent by
mail, and looks the same years later. Runs that differ in nothing but the seed are one row of the charts. Rows of
several seeds have filled markers and solid lines, with their spread; a single seed, which tells no rows apart, has
a hollow marker and a dashed line.
"""

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pnfs.data.images import DataError
from pnfs.viz import cards as words
from pnfs.viz.cards import RunCard
from pnfs.viz.curves import LOGGED, loss_axes, plot_mean, plot_seeds, read_metrics
from pnfs.viz.style import COLOURS, MARKERS, RC, new_figure, plain_axes

STATES = ("finished", "running", "interrupted", "failed")
_PICTURE_WIDTH = 900


@dataclass
class Row:
    """Runs that differ in nothing but the seed."""

    number: int  # Place on the page, from 0.
    cards: list[RunCard] = field(default_factory=list)
    look: tuple[str, str] | None = None  # Colour and marker; None for rows that are drawn in grey.
    curves: list[dict[str, pd.Series]] = field(default_factory=list)  # Metric -> values by epoch.

    @property
    def scores(self) -> list[float]:
        """Scores of the finished runs in percent."""
        return [card.score for card in self.cards if card.score is not None]

    @property
    def mean(self) -> float | None:
        return fmean(self.scores) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def macs(self) -> int | None:
        return next((card.macs for card in self.cards if card.macs), None)


def runs_page(
    cards: Sequence[RunCard], *, title: str, subtitle: str = "", pictured: int = 12
) -> tuple[str, list[str]]:
    """The whole page, HTML with everything inside, and what could not be read.

    The table has the order of the cards until one sorts it. `pictured` runs show their pictures: the best of each
    benchmark, then the second, ... A picture that cannot be read is a `DataError`.
    """
    rows: dict[tuple[str, str], Row] = {}
    benchmarks: dict[str, list[Row]] = {}
    for card in cards:
        key = card.benchmark, card.row
        if key not in rows:
            rows[key] = Row(len(rows))
            benchmarks.setdefault(card.benchmark, []).append(rows[key])
        rows[key].cards.append(card)
    problems: list[str] = []
    for members in benchmarks.values():
        # Rows of one seed, whose score may be luck, come after all others.
        members.sort(key=lambda row: (row.deviation is None, -(row.mean or -math.inf)))
        for row, look in zip(members, zip(COLOURS, MARKERS, strict=True), strict=False):
            row.look = look
            problems += _read_curves(row)
    loader = PackageLoader("pnfs.viz", "page")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    for name in ("duration", "millions", "giga", "percent"):
        environment.filters[name] = getattr(words, name)
    page = environment.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        cards=cards,
        row_of=[rows[card.benchmark, card.row] for card in cards],
        states={state: sum(card.state == state for card in cards) for state in STATES},
        benchmarks=[(name, found, draw_charts(found)) for name, found in benchmarks.items()],
        pictures={
            n: {what: _data_url(path) for what, path in cards[n].pictures.items()} for n in _best(cards, pictured)
        },
        with_pictures=sum(bool(card.pictures) for card in cards),
    )
    return page, problems


def _read_curves(row: Row) -> list[str]:
    """Reads what the runs of a row logged; returns what cannot be read."""
    problems = []
    logged = [card for card in row.cards if card.metrics is not None]
    # Runs that stopped early would cut the mean of those that did not.
    for card in [card for card in logged if card.state == "finished"] or logged:
        try:
            row.curves.append(read_metrics(card.metrics or Path(), LOGGED))
        except DataError as error:
            problems.append(str(error))
    return problems


def _best(cards: Sequence[RunCard], count: int) -> list[int]:
    """Runs whose pictures are shown: each benchmark's best, then each one's second, ..."""
    scores = [math.nan if card.score is None else card.score for card in cards]
    table = pd.DataFrame({"benchmark": [card.benchmark for card in cards], "score": scores})
    table = table[[bool(card.pictures) for card in cards]]
    table = table.sort_values("score", ascending=False, kind="stable")
    ranks = table.groupby("benchmark", sort=False).cumcount()
    return ranks.sort_values(kind="stable").index[:count].tolist()


def _data_url(path: Path) -> str:
    """A picture at most `_PICTURE_WIDTH` wide, as WebP inside a URL."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be read ({error}); delete it") from None
    picture.thumbnail((_PICTURE_WIDTH, 3 * _PICTURE_WIDTH))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=60)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


# --- charts


def draw_charts(rows: Sequence[Row]) -> list[Markup]:
    """The charts of one benchmark as SVG; what belongs to a row has its number in `data-row`."""
    charts = [_trade_off(rows)] if any(row.macs and row.scores for row in rows) else []
    logged = {metric for row in rows for curves in row.curves for metric in curves}
    return charts + [_curve_chart(rows, metric) for metric in LOGGED if metric in logged]


def _chart(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = new_figure(4.6, 3.2)
    axes = figure.subplots()
    plain_axes(axes, x_label=x_label, y_label=y_label)
    return figure, axes


def _trade_off(rows: Sequence[Row]) -> Markup:
    costed = [row for row in rows if row.macs and row.mean is not None]
    names = {card.score_name for row in costed for card in row.cards if card.score_name}
    figure, axes = _chart("MACs of one image (G)", f"{', '.join(sorted(names))} (%)")
    for row in costed:
        if row.look is None:
            axes.plot((row.macs or 0) / 1e9, row.mean or 0.0, ".", color="0.75", ms=4, zorder=1)
            continue
        x, y = (row.macs or 0) / 1e9, row.mean or 0.0
        for artist in plot_mean(axes, x, y, row.look, std={"yerr": row.deviation}):
            artist.set_gid(f"row-{row.number}")
    axes.margins(0.12)
    axes.set_xlim(left=0)
    return _inline(figure, f"{rows[0].number} trade-off")


def _curve_chart(rows: Sequence[Row], metric: str) -> Markup:
    figure, axes = _chart("epoch (from 0)", LOGGED[metric])
    means = []
    for row in rows:
        if curves := [each[metric] for each in row.curves if metric in each]:
            colour = (row.look or COLOURS)[0]
            means.append(plot_seeds(axes, curves, colour, gid=f"row-{row.number}"))
    loss_axes(axes, means, metric)
    axes.set_xlim(-0.3, max(1.3, axes.get_xlim()[1]))
    if axes.get_yscale() == "linear":
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    return _inline(figure, f"{rows[0].number} {metric}")


def _inline(figure: Figure, name: str) -> Markup:
    """The figure as an `<svg>` element; `name` keeps its ids apart from those of other charts."""
    file = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with mpl.rc_context({**RC, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=nothing)
    svg = file.getvalue()
    svg = re.sub(r'<g id="row-(\d+)">', r'<g class="row" data-row="\1">', svg[svg.index("<svg") :])
    # Other charts of the page have the same names.
    return Markup(re.sub(r' id="[A-Za-z][A-Za-z0-9.]*_\d+"', "", svg))

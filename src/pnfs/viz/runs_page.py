"""One HTML page about many runs: a table to sort and filter, the trade-off, curves, pictures.

The page holds all that it shows and asks no server for anything, so that it opens from a file, can be sent by
mail, and looks the same years later. Runs that differ in nothing but the seed are one row of the charts. Rows of
several seeds have filled markers and solid lines, with their spread; a single seed, which may be luck, has
a hollow marker and a dashed line.
"""

import base64
import io
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from pnfs.data.images import DataError
from pnfs.scores import digits, with_unit
from pnfs.viz.curves import LOGGED, loss_axes, plot_mean, plot_seeds, read_metrics
from pnfs.viz.style import COLOURS, MARKERS, RC, new_figure, plain_axes

STATES = ("finished", "running", "interrupted", "failed")
PICTURED = 12
"""Runs whose pictures are shown, about 0.2 MB each."""
_WIDTH = 900
Curves = dict[int, list[dict[str, pd.Series]]]
log = logging.getLogger(__name__)


def runs_page(cards: Sequence[Mapping[str, Any]], *, title: str) -> str:
    """The whole page, HTML with everything inside; curves that cannot be read are left out with a warning.

    `cards` is what `pnfs.commands.runs.page_cards` says of each run, such as its benchmark, whose runs share axes,
    and its row, the same text for runs that differ in nothing but the seed. A picture that cannot be read is a
    `DataError`.
    """
    table = pd.DataFrame(cards).astype({"score": float, "macs": float})
    table["number"] = table.groupby(["benchmark", "row"], sort=False).ngroup()
    table["places"] = table["score_name"].map(digits)
    rows = table.groupby("number").agg(
        benchmark=("benchmark", "first"), label=("label", "first"), macs=("macs", "first"),
        mean=("score", "mean"), std=("score", "std"), seeds=("score", "count"),
        places=("places", "max"),
    )  # fmt: skip
    # Rows of one seed, whose score may be luck, come after all others; the first few have a colour.
    rows = rows.assign(one=rows["std"].isna()).sort_values(["one", "mean"], ascending=[True, False])
    rank = rows.groupby("benchmark").cumcount()
    rows["colour"], rows["marker"] = (rank.map(dict(enumerate(looks))) for looks in (COLOURS, MARKERS))
    curves: Curves = {}
    shown = table[table["number"].isin(rows.index[rows["colour"].notna()]) & table["metrics"].notna()]
    for number, logged in shown.groupby("number"):
        # Runs that stopped early would cut the mean of those that did not.
        finished = logged[logged["state"] == "finished"]
        for path in (logged if finished.empty else finished)["metrics"]:
            try:
                curves.setdefault(int(str(number)), []).append(read_metrics(path, LOGGED))
            except DataError as error:
                log.warning("left out: %s", error)
    rows = rows.astype(object).where(rows.notna(), None)
    benchmarks = []
    for name in table["benchmark"].unique():
        members = list(rows[rows["benchmark"] == name].itertuples())
        benchmarks.append((name, members, draw_charts(table[table["benchmark"] == name], members, curves)))
    # Each benchmark's best, then each one's second, ...
    drawn = table[table["pictures"].astype(bool)].sort_values("score", ascending=False, kind="stable")
    best = drawn.groupby("benchmark", sort=False).cumcount().sort_values(kind="stable").index[:PICTURED]
    loader = PackageLoader("pnfs.viz", "page")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html.j2").render(
        title=title,
        cards=cards,
        numbers=table["number"].tolist(),
        colours=rows["colour"].to_dict(),
        states={state: int((table["state"] == state).sum()) for state in STATES},
        benchmarks=benchmarks,
        pictures={n: {what: _data_url(path) for what, path in cards[n]["pictures"].items()} for n in best},
        with_pictures=len(drawn),
    )


def _data_url(path: Path) -> str:
    """A picture at most `_WIDTH` wide, as WebP inside a URL."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be read ({error}); delete it") from None
    picture.thumbnail((_WIDTH, 3 * _WIDTH))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=60)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def draw_charts(table: pd.DataFrame, rows: Sequence[Any], curves: Curves) -> list[Markup]:
    """The charts of one benchmark as SVG; what belongs to a row has its number in `data-row`."""
    charts = []
    if costed := [row for row in rows if row.macs and row.mean is not None]:
        names = ", ".join(map(with_unit, sorted(set(table["score_name"]) - {""})))
        axes = (figure := new_figure(4.6, 3.2)).subplots()
        plain_axes(axes, x_label="MACs of one image (G)", y_label=names)
        for row in costed:
            if row.colour is None:
                axes.plot(row.macs / 1e9, row.mean, ".", color="0.75", ms=4, zorder=1)
                continue
            look = row.colour, row.marker
            for artist in plot_mean(axes, row.macs / 1e9, row.mean, look, yerr=row.std):
                artist.set_gid(f"row-{row.Index}")
        axes.margins(0.12)
        axes.set_xlim(left=0)
        charts.append(_inline(figure, f"{rows[0].Index} trade-off"))
    for metric in LOGGED:
        logged = {row: [c[metric] for c in curves.get(row.Index, []) if metric in c] for row in rows}
        if not (logged := {row: found for row, found in logged.items() if found}):
            continue
        axes = (figure := new_figure(4.6, 3.2)).subplots()
        plain_axes(axes, x_label="epoch (from 0)", y_label=LOGGED[metric])
        means = [plot_seeds(axes, c, row.colour, gid=f"row-{row.Index}") for row, c in logged.items()]
        loss_axes(axes, means, metric)
        axes.set_xlim(-0.3, max(1.3, axes.get_xlim()[1]))
        if axes.get_yscale() == "linear":
            axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
        charts.append(_inline(figure, f"{rows[0].Index} {metric}"))
    return charts


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

"""One HTML page about many runs: a table to sort and filter, the trade-off, curves, pictures.

The page holds all that it shows and asks no server for anything, so that it opens from a file, can be sent
by mail, and looks the same years later. Runs that differ in nothing but the seed are one row of the charts.
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

import pandas as pd
from jinja2 import Environment, PackageLoader
from PIL import Image

from pnfs.data.images import DataError
from pnfs.viz import cards as words
from pnfs.viz.cards import RunCard
from pnfs.viz.curves import read_metrics
from pnfs.viz.runs_charts import CURVES, draw_charts
from pnfs.viz.style import COLOURS

STATES = ("finished", "running", "interrupted", "failed")
_PICTURE_WIDTH = 900


@dataclass
class Row:
    """Runs that differ in nothing but the seed.

    Attributes:
        number: Place on the page, from 0.
        cards: The runs.
        colour: Its colour in table and charts; None for rows that are drawn in grey.
        curves: For each finished run, or for each where none is: metric -> values by epoch.
    """

    number: int
    cards: list[RunCard] = field(default_factory=list)
    colour: str | None = None
    curves: list[Mapping[str, pd.Series]] = field(default_factory=list)

    @property
    def scores(self) -> list[float]:
        """Scores of the finished runs in percent."""
        return [card.score for card in self.cards if card.score is not None]

    @property
    def mean(self) -> float | None:
        return fmean(self.scores) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for a single one, which tells no rows apart."""
        return stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def macs(self) -> int | None:
        return next((card.macs for card in self.cards if card.macs), None)


def runs_page(
    cards: Sequence[RunCard], *, title: str, subtitle: str = "", pictured: int = 12
) -> tuple[str, list[str]]:
    """The whole page, HTML with everything inside, and what could not be read.

    Args:
        cards: One a run, in the order of the table before one sorts it.
        title: Title of the page.
        subtitle: Text below it.
        pictured: Number of runs that show their pictures: the best of each benchmark, then the second, ...

    Raises:
        DataError: A picture cannot be read.
    """
    rows: dict[tuple[str, str], Row] = {}
    for card in cards:
        rows.setdefault((card.benchmark, card.row), Row(len(rows))).cards.append(card)
    benchmarks = _by_benchmark(rows.values())
    problems: list[str] = []
    for members in benchmarks.values():
        for row, colour in zip(members, COLOURS, strict=False):
            row.colour = colour
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
            n: {what: _data_url(path) for what, path in cards[n].pictures.items()}
            for n in _best(cards, pictured)
        },
        with_pictures=sum(bool(card.pictures) for card in cards),
    )
    return page, problems


def _by_benchmark(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of each benchmark, by mean score; those of one seed, which may be luck, after all others."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.cards[0].benchmark, []).append(row)
    for members in found.values():
        members.sort(key=lambda row: (row.deviation is None, _descending(row.mean)))
    return found


# Lightning adds the suffix where a metric is logged both per step and per epoch.
_DRAWN = {name + suffix for name in CURVES for suffix in ("", "_epoch")}


def _read_curves(row: Row) -> list[str]:
    """Reads what the runs of a row logged, by the metrics' bare names; returns what cannot be read."""
    problems = []
    logged = [card for card in row.cards if card.metrics is not None]
    # Runs that stopped early would cut the mean of those that did not.
    for card in [card for card in logged if card.state == "finished"] or logged:
        try:
            metrics = read_metrics(card.metrics or "", _DRAWN)
        except DataError as error:
            problems.append(str(error))
            continue
        row.curves.append({name.removesuffix("_epoch"): each for name, each in metrics.items()})
    return problems


def _best(cards: Sequence[RunCard], count: int) -> list[int]:
    """Runs whose pictures are shown: each benchmark's best, then each one's second, ..."""
    found: dict[str, list[int]] = {}
    for n in sorted(range(len(cards)), key=lambda n: _descending(cards[n].score)):
        if cards[n].pictures:
            found.setdefault(cards[n].benchmark, []).append(n)
    ranked = [(rank, n) for members in found.values() for rank, n in enumerate(members)]
    return [n for _, n in sorted(ranked, key=lambda each: each[0])[:count]]


def _descending(score: float | None) -> float:
    """Sorts high scores first, and what has none last."""
    return math.inf if score is None else -score


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

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

from jinja2 import Environment, PackageLoader
from PIL import Image

from pnfs.data.persons import DataError
from pnfs.viz.cards import RunCard, duration, giga, known, millions, percent
from pnfs.viz.curves import Curve, read_metrics
from pnfs.viz.run_charts import draw_charts
from pnfs.viz.style import COLOURS

STATES = ("finished", "running", "interrupted", "failed")
_PICTURE_WIDTH = 1000


@dataclass
class Row:
    """Runs that differ in nothing but the seed.

    Attributes:
        number: Place on the page, from 0.
        cards: The runs.
        colour: Its colour in table and charts; None for rows that are drawn in grey.
        curves: For each finished run, or for each where none is: metric -> (epochs, values).
    """

    number: int
    cards: list[RunCard] = field(default_factory=list)
    colour: str | None = None
    curves: list[Mapping[str, Curve]] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.cards[0].label

    @property
    def scores(self) -> list[float]:
        """Scores of the finished runs in percent."""
        scores = (card.score for card in self.cards)
        return [score for score in scores if score is not None and known(score)]

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


def dashboard_page(
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
    rows = _rows(cards)
    problems = [problem for row in rows.values() if row.colour for problem in _read_curves(row)]
    benchmarks = [
        (benchmark, members, draw_charts(members))
        for benchmark, members in _by_benchmark(rows.values()).items()
    ]
    shown = _best(cards, pictured)
    environment = Environment(
        loader=PackageLoader("pnfs.viz", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "millions": millions,
        "giga": giga,
        "percent": percent,
    }
    page = environment.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        cards=cards,
        row_of=[rows[card.benchmark, card.row] for card in cards],
        states={state: sum(card.state == state for card in cards) for state in STATES},
        benchmarks=benchmarks,
        pictures={
            n: {what: _data_url(path) for what, path in cards[n].pictures.items()} for n in shown
        },
        with_pictures=sum(bool(card.pictures) for card in cards),
        known=known,
    )
    return page, problems


def _rows(cards: Sequence[RunCard]) -> dict[tuple[str, str], Row]:
    """The rows, the first of each benchmark with a colour."""
    rows: dict[tuple[str, str], Row] = {}
    for card in cards:
        key = (card.benchmark, card.row)
        rows.setdefault(key, Row(len(rows))).cards.append(card)
    for members in _by_benchmark(rows.values()).values():
        for row, colour in zip(members, COLOURS, strict=False):
            row.colour = colour
    return rows


def _by_benchmark(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of each benchmark, by mean score; those of one seed, which may be luck, after all others."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.cards[0].benchmark, []).append(row)
    for members in found.values():
        members.sort(key=lambda row: (row.deviation is None, _descending(row.mean)))
    return found


def _read_curves(row: Row) -> list[str]:
    """Reads what the runs of a row logged, by the metrics' bare names; returns what cannot be read."""
    problems = []
    logged_any = [card for card in row.cards if card.metrics is not None]
    # Runs that stopped early would cut the mean of those that did not.
    finished = [card for card in logged_any if card.state == "finished"]
    for card in finished or logged_any:
        try:
            logged = read_metrics(card.metrics or "")
        except DataError as error:
            problems.append(str(error))
            continue
        # Lightning adds the suffix where a metric is logged both per step and per epoch.
        row.curves.append({name.removesuffix("_epoch"): curve for name, curve in logged.items()})
    return problems


def _best(cards: Sequence[RunCard], count: int) -> list[int]:
    """Runs whose pictures are shown: each benchmark's best, then each one's second, ..."""
    found: dict[str, list[int]] = {}
    for n, card in enumerate(cards):
        if card.pictures:
            found.setdefault(card.benchmark, []).append(n)
    ranked = []
    for members in found.values():
        members.sort(key=lambda n: _descending(cards[n].score))
        ranked += enumerate(members)
    return [n for _, n in sorted(ranked, key=lambda each: each[0])[:count]]


def _descending(score: float | None) -> float:
    """Sorts high scores first, and what has none last."""
    return -score if score is not None and known(score) else math.inf


def _data_url(path: Path) -> str:
    """A picture at most `_PICTURE_WIDTH` wide, as WebP inside a URL."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be read ({error}); delete it") from None
    picture.thumbnail((_PICTURE_WIDTH, 3 * _PICTURE_WIDTH), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"

"""One HTML page about many runs: a table to sort and filter, curves, the trade-off, pictures.

The page holds all that it shows and asks no server for anything, so that it opens from a file, can be sent
by mail, and looks the same years later.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image

from pnfs.data.persons import DataError
from pnfs.viz.curves import Curve

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
"""Okabe and Ito's colours, then others a golden angle apart."""
_MAX_POINTS = 120
_PICTURE_WIDTH = 1000
_STATES = ("finished", "running", "interrupted", "failed")
_NOTHING = "–"


@dataclass(frozen=True)
class RunCard:
    """What the page says about one run.

    Attributes:
        path: Of its folder, as the page shows it.
        state: finished, running, interrupted or failed.
        name: The experiment it belongs to.
        benchmark: Runs of one benchmark share axes.
        summary: Dataset, model, strategy in a few words.
        differences: Keys of the configuration that differ within the experiment -> values.
        cause: Why it failed.
        score: In percent; None before the end.
        score_name: Of the metric.
        parameters: Count.
        macs: Multiply-accumulates of one image.
        seconds: Of search, training and evaluation.
        curves: Logged metric -> (epochs, values).
        pictures: Title -> PNG file.
        problems: What could not be read.
    """

    path: str
    state: str
    name: str
    benchmark: str
    summary: str
    differences: Mapping[str, str] = field(default_factory=dict)
    cause: str | None = None
    score: float | None = None
    score_name: str = ""
    parameters: int | None = None
    macs: int | None = None
    seconds: float | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    pictures: Mapping[str, Path] = field(default_factory=dict)
    problems: Sequence[str] = ()


def dashboard_page(
    cards: Sequence[RunCard], *, title: str, subtitle: str = "", pictured: int = 12
) -> str:
    """The whole page, HTML with everything inside.

    Args:
        cards: One a run, in the order of the table before one sorts it.
        title: Of the page.
        subtitle: Below it.
        pictured: So many runs show their pictures, those with the highest scores of each benchmark in turn.

    Raises:
        DataError: A picture cannot be read.
    """
    colours = _colours(cards)
    states = "".join(
        f'<label><input type="checkbox" class="state" value="{state}" checked> '
        f'<span class="{state}">{state}</span> {sum(card.state == state for card in cards)}</label>'
        for state in _STATES
    )
    shown = _best(cards, pictured)
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(subtitle)}</p>",
        '<form><input id="filter" type="search" placeholder="filter: LSPET, seed 1, ..." '
        f'aria-label="filter">{states}<output id="count"></output></form>',
        _table(cards, colours, set(shown)),
        *_benchmarks(cards, colours),
        _pictures(cards, colours, shown),
    ]
    return _PAGE.format(title=escape(title), style=_STYLE, script=_SCRIPT, body="\n".join(parts))


def _colours(cards: Sequence[RunCard]) -> list[str]:
    """One for each run; runs of one benchmark differ."""
    used: dict[str, int] = {}
    found = []
    for card in cards:
        number = used.get(card.benchmark, 0)
        used[card.benchmark] = number + 1
        further = f"hsl({number * 137.5 % 360:.0f} 60% 40%)"
        found.append(_COLOURS[number] if number < len(_COLOURS) else further)
    return found


def _best(cards: Sequence[RunCard], count: int) -> list[int]:
    """Rows of the runs whose pictures are shown: each benchmark's best, then each one's second, ..."""
    ranks: dict[str, int] = {}
    ranked = []
    for row in sorted(
        (row for row, card in enumerate(cards) if card.pictures),
        key=lambda row: -_or_minus_infinity(cards[row].score),
    ):
        benchmark = cards[row].benchmark
        ranks[benchmark] = ranks.get(benchmark, 0) + 1
        ranked.append((ranks[benchmark], row))
    return [row for _, row in sorted(ranked, key=lambda each: each[0])[:count]]


def _or_minus_infinity(value: float | None) -> float:
    return float("-inf") if value is None or np.isnan(value) else value


# --- the table

_COLUMNS = (
    ("run", False), ("state", False), ("experiment", False), ("score", True), ("parameters", True),
    ("MACs", True), ("duration", True), ("what", False), ("differs in, or why it failed", False),
)  # fmt: skip


def _table(cards: Sequence[RunCard], colours: Sequence[str], pictured: set[int]) -> str:
    header = "".join(
        f'<th scope="col" class="{"number" if number else "text"}"><button>{label}</button></th>'
        for label, number in _COLUMNS
    )
    rows = "\n".join(
        _row(row, card, colours[row], row in pictured) for row, card in enumerate(cards)
    )
    return (
        f'<div id="scroll"><table id="runs"><thead><tr>{header}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(row: int, card: RunCard, colour: str, pictured: bool) -> str:
    path = escape(card.path)
    link = f'<a href="#run-{row}">{path}</a>' if pictured else path
    swatch = f'<i style="background:{colour}"></i>'
    cells = [
        f"<td>{swatch}{link}</td>",
        f'<td><span class="{escape(card.state)}">{escape(card.state)}</span></td>',
        f"<td>{escape(card.name)}</td>",
        _number(card.score, "" if card.score is None else f"{card.score:.1f}", card.score_name),
        _number(
            card.parameters, "" if card.parameters is None else f"{card.parameters / 1e6:.2f} M"
        ),
        _number(card.macs, "" if card.macs is None else f"{card.macs / 1e9:.3g} G"),
        _number(card.seconds, "" if card.seconds is None else duration(card.seconds)),
        f"<td>{escape(card.summary)}</td>",
        f'<td class="notes">{_notes(card)}</td>',
    ]
    return (
        f'<tr class="run" data-run="{row}" data-state="{escape(card.state)}">{"".join(cells)}</tr>'
    )


def _number(value: float | None, text: str, note: str = "") -> str:
    note = f" <small>{escape(note)}</small>" if note and text else ""
    sorted_by = "" if value is None or np.isnan(value) else f"{value:.10g}"
    return f'<td class="number" data-value="{sorted_by}">{escape(text) or _NOTHING}{note}</td>'


def _notes(card: RunCard) -> str:
    notes = [
        f'<b class="failed">{escape(text)}</b>' for text in (card.cause, *card.problems) if text
    ]
    notes += [
        f"<code>{escape(key)}={escape(value)}</code>" for key, value in card.differences.items()
    ]
    return " ".join(notes)


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds of a short run."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


# --- the charts

_CHARTS = (
    ("val/score", "validation score while training (%)", False),
    ("train/loss", "training loss", True),
    ("val/loss", "validation loss", True),
)


def _benchmarks(cards: Sequence[RunCard], colours: Sequence[str]) -> list[str]:
    sections = []
    for benchmark in dict.fromkeys(card.benchmark for card in cards):
        rows = [row for row, card in enumerate(cards) if card.benchmark == benchmark]
        charts = [
            _curve_chart(cards, colours, rows, metric, label, logarithmic)
            for metric, label, logarithmic in _CHARTS
            if any(metric in cards[row].curves for row in rows)
        ]
        costed = [row for row in rows if cards[row].score is not None and cards[row].macs]
        if costed:
            charts.insert(0, _trade_off(cards, colours, costed))
        drawn = "".join(f"<figure>{chart}</figure>" for chart in charts)
        nothing = "<p>Nothing was logged yet.</p>"
        sections.append(
            f'<section><h2>{escape(benchmark)}</h2><div class="charts">{drawn or nothing}</div></section>'
        )
    return sections


def _curve_chart(
    cards: Sequence[RunCard],
    colours: Sequence[str],
    rows: Sequence[int],
    metric: str,
    label: str,
    logarithmic: bool,
) -> str:
    figure, axes = _axes("epoch (from 0)", label)
    curves = {row: cards[row].curves[metric] for row in rows if metric in cards[row].curves}
    for row, (x, y) in curves.items():
        x, y = _thinned(x), _thinned(y)
        marker = "o" if len(x) <= 30 else None
        (line,) = axes.plot(x, y, color=_rgb(colours[row]), linewidth=1.6, marker=marker, ms=3)
        line.set_gid(f"run-{row}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.3, max(1.0, *(x[-1] for x, _ in curves.values())) + 0.3)
    if logarithmic and all((y > 0).all() for _, y in curves.values()):
        axes.set_yscale("log")
    else:
        _from_zero(axes)
    return _inline(figure, cards)


def _thinned(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " M"]:
    rows = np.unique(np.linspace(0, len(values) - 1, _MAX_POINTS).round().astype(int))
    return values[rows]


def _trade_off(cards: Sequence[RunCard], colours: Sequence[str], rows: Sequence[int]) -> str:
    names = ", ".join(sorted({cards[row].score_name for row in rows}))
    figure, axes = _axes("MACs of one image (G, log scale)", f"{names} (%)")
    axes.set_xscale("log")
    for row in rows:
        macs, score = cards[row].macs, cards[row].score
        assert macs is not None
        assert score is not None
        (point,) = axes.plot(macs / 1e9, score, "o", color=_rgb(colours[row]), ms=7, clip_on=False)
        point.set_gid(f"run-{row}")
    costs = [cards[row].macs or 1 for row in rows]
    axes.set_xlim(min(costs) / 1e9 / 2, max(costs) / 1e9 * 2)
    _from_zero(axes)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    return _inline(figure, cards)


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(which="major", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _from_zero(axes: Axes) -> None:
    """Scores from zero, up to one percent at least."""
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))


def _rgb(colour: str) -> str | tuple[float, ...]:
    """Matplotlib knows no hsl()."""
    if not colour.startswith("hsl"):
        return colour
    hue = float(colour[4:].split()[0]) / 360
    # Of the HSL colours above: value 0.64, saturation 0.75.
    return tuple(hsv_to_rgb((hue, 0.75, 0.64)))


def _inline(figure: Figure, cards: Sequence[RunCard]) -> str:
    """The figure as an SVG element whose curves and points carry the number and name of their run."""
    file = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 9}):
        figure.savefig(file, format="svg", metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]

    def named(match: re.Match[str]) -> str:
        row = int(match[1])
        return f'<g class="run" data-run="{row}"><title>{escape(_label(cards[row]))}</title>'

    svg = re.sub(r'<g id="run-(\d+)">', named, svg)
    # Other charts of the page have the same names.
    return re.sub(r' id="[A-Za-z][A-Za-z0-9.]*_\d+"', "", svg)


def _label(card: RunCard) -> str:
    score = "" if card.score is None else f", {card.score_name} {card.score:.1f}"
    return f"{card.path}: {card.summary}{score}"


# --- the pictures


def _pictures(cards: Sequence[RunCard], colours: Sequence[str], rows: Sequence[int]) -> str:
    if not rows:
        return ""
    with_pictures = sum(bool(card.pictures) for card in cards)
    left_out = f" (of {with_pictures} that have any)" if with_pictures > len(rows) else ""
    figures = []
    for place, row in enumerate(rows):
        card = cards[row]
        images = "".join(
            f'<figure><figcaption>{escape(what)}</figcaption><img alt="{escape(what)} of '
            f'{escape(card.path)}" src="{_data_url(path)}"></figure>'
            for what, path in card.pictures.items()
        )
        swatch = f'<i style="background:{colours[row]}"></i>'
        figures.append(
            f'<details class="run" data-run="{row}" id="run-{row}"{" open" if place < 3 else ""}>'
            f'<summary>{swatch}{escape(_label(card))}</summary><div class="pictures">{images}</div>'
            "</details>"
        )
    title = f"Architectures and example poses of {len(rows)} runs{left_out}"
    return f"<section><h2>{escape(title)}</h2>{''.join(figures)}</section>"


def _data_url(path: Path) -> str:
    """A picture at most `_PICTURE_WIDTH` wide, as JPEG inside a URL."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be read ({error}); delete it") from None
    picture.thumbnail((_PICTURE_WIDTH, 3 * _PICTURE_WIDTH), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


# --- what every page has

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1f2933; background: #fff;
  margin: 1.5rem auto; max-width: 1400px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 1.8rem 0 .5rem; }
form { display: flex; gap: 1rem; align-items: center; flex-wrap: wrap; margin: .8rem 0; }
#filter { font: inherit; padding: .35rem .6rem; width: 22rem; border: 1px solid #b8c1cc;
  border-radius: 4px; }
output { color: #6b7280; }
#scroll { max-height: 42rem; overflow: auto; border: 1px solid #e5e9ee; }
table { border-collapse: separate; border-spacing: 0; width: 100%; }
th { position: sticky; top: 0; background: #fff; text-align: left; border-bottom: 2px solid #d3d9e0; padding: 0; }
th button { font: inherit; font-weight: 600; background: none; border: 0; padding: .35rem .5rem;
  cursor: pointer; color: inherit; white-space: nowrap; }
th.number, td.number { text-align: right; white-space: nowrap; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
td { border-bottom: 1px solid #e5e9ee; padding: .3rem .5rem; vertical-align: top; }
td:first-child { white-space: nowrap; } small { color: #6b7280; }
.notes { min-width: 22rem; max-width: 34rem; overflow-wrap: anywhere; }
code { font-size: .85em; background: #f1f4f7; padding: 0 .25em; border-radius: 3px; }
tr.run:hover, tr.run.lit { background: #f3f7fb; }
i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
a { color: inherit; }
.finished { color: #1b7f4b; } .running { color: #0b6e99; } .interrupted { color: #9a6700; }
.failed { color: #b3261e; font-weight: 600; }
.charts, .pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: 0; } .charts figure { flex: 1 1 310px; max-width: 480px; }
svg { width: 100%; height: auto; } svg text { font-family: system-ui, sans-serif !important; }
.lighting svg .run:not(.lit) { opacity: .12; }
.pictures figure { flex: 1 1 480px; max-width: 680px; }
.pictures img { width: 100%; border: 1px solid #e5e9ee; }
figcaption, summary { color: #44505c; padding: .25rem 0; } summary { cursor: pointer; }
.hidden { display: none !important; }
"""

_SCRIPT = """
"use strict";
const table = document.getElementById("runs");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const filter = document.getElementById("filter");
const states = [...document.querySelectorAll("input.state")];
const all = selector => [...document.querySelectorAll(selector)];

function value(row, column) {
  const cell = row.cells[column];
  if (!heads[column].classList.contains("number")) return cell.textContent.trim().toLowerCase();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function sort(column) {
  const head = heads[column];
  const numeric = head.classList.contains("number");
  const first = numeric ? "descending" : "ascending";
  const other = numeric ? "ascending" : "descending";
  const order = head.getAttribute("aria-sort") === first ? other : first;
  heads.forEach(each => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...body.rows].sort((a, b) => {
    const x = value(a, column), y = value(b, column);
    if (x === null || y === null) return (x === null) - (y === null);  // Missing ones stay below.
    return sign * (numeric ? x - y : x.localeCompare(y));
  });
  body.append(...rows);
}

function choose() {
  const words = filter.value.toLowerCase().split(",").map(word => word.trim());
  const wanted = new Set(states.filter(each => each.checked).map(each => each.value));
  const hidden = new Set();
  for (const row of body.rows) {
    const text = [...row.cells].map(cell => cell.textContent).join(" ").toLowerCase();
    if (!wanted.has(row.dataset.state) || !words.every(word => text.includes(word)))
      hidden.add(row.dataset.run);
  }
  all(".run").forEach(each => each.classList.toggle("hidden", hidden.has(each.dataset.run)));
  const count = body.rows.length;
  document.getElementById("count").textContent = `${count - hidden.size} of ${count} runs`;
}

function light(run) {
  document.body.classList.toggle("lighting", run !== null);
  all(".run").forEach(each => each.classList.toggle("lit", each.dataset.run === run));
}

heads.forEach((head, column) => head.addEventListener("click", () => sort(column)));
filter.addEventListener("input", choose);
states.forEach(each => each.addEventListener("change", choose));
document.querySelector("form").addEventListener("submit", event => event.preventDefault());
all("tr.run, svg .run").forEach(each => {
  each.addEventListener("mouseenter", () => light(each.dataset.run));
  each.addEventListener("mouseleave", () => light(null));
});
// A link in the table opens what it leads to.
all("td a").forEach(link => link.addEventListener("click", () => {
  document.getElementById(link.hash.slice(1)).open = true;
}));
choose();
"""

"""`pnfs runs`: lists runs, compares two, or writes one HTML page about all."""

import csv
import json
import math
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pnfs.commands.configuration import UsageError, plain
from pnfs.commands.run_cards import ABSENT, card_of, filtered, flat, page_cards
from pnfs.runs.finding import Run, find_runs
from pnfs.runs.identity import defining_part
from pnfs.viz.cards import RunCard, duration, giga, millions, percent

# Colours of a terminal, as the numbers that switch them on.
COLOURS = {"finished": "32", "running": "36", "interrupted": "33", "failed": "1;31"}

ORDERS: Mapping[str, Callable[[RunCard], Any]] = {
    "path": lambda card: card.run,
    "score": lambda card: math.inf if card.score is None else -card.score,
    "seconds": lambda card: math.inf if card.seconds is None else card.seconds,
    "macs": lambda card: math.inf if card.macs is None else card.macs,
}
FORMATS = ("table", "csv", "json")
COLUMNS = ("run", "state", "score", "score_name", "parameters", "live_parameters", "macs", "seconds",
           "seed", "what", "cause")  # fmt: skip
_NARROW = 30
"""Less room than this beside the numbers: what a run is stands below them."""

console = Console()


def run(config: DictConfig) -> None:
    own = plain(config)
    root = Path(own["run_root"]).expanduser()
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; set run_root=<folder of runs>")
    for key, choices in (("sort", tuple(ORDERS)), ("format", FORMATS)):
        if own[key] not in choices:
            raise UsageError(f"{key}={own[key]}: choose one of {', '.join(choices)}")
    runs = find_runs(root)
    if own["compare"] is not None:
        console.print(comparison(*_two(runs, own["compare"])))
        return
    runs = filtered(runs, own["filter"] or {})
    if own["html"] is not None:
        write_page(runs, root, Path(own["html"]).expanduser(), own["pictured"])
        return
    cards = sorted((card_of(run, root) for run in runs), key=ORDERS[own["sort"]])
    if own["format"] == "table":
        print(f"{len(cards)} runs below {root}")
        colours = console.is_terminal and not console.no_color
        print(*run_lines(cards, console.width, colours), sep="\n")
    else:
        write_cards(cards, own["format"])


def write_page(runs: Sequence[Run], root: Path, path: Path, pictured: int) -> None:
    """Writes the page about these runs."""
    # Here and not above: a list need not wait for what draws.
    from pnfs.viz.runs_page import runs_page

    if not runs:
        raise UsageError(f"{root}: no run is to be shown; set run_root=<folder of runs>, or filter")
    page, problems = runs_page(
        page_cards(runs, root),
        title="Pose fabrics: runs",
        subtitle=f"{len(runs)} runs below {root}",
        pictured=pictured,
    )
    for problem in problems:
        console.print(f"[yellow]left out:[/] {escape(problem)}", soft_wrap=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    print(f"{len(runs)} runs: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def write_cards(cards: Sequence[RunCard], form: str) -> None:
    """To standard output: JSON with all scores, null for what is not known; or CSV, with blank cells."""
    entries = [{name: getattr(card, name) for name in (*COLUMNS, "scores")} for card in cards]
    if form == "json":
        print(json.dumps(entries, indent=1, allow_nan=False))
        return
    writer: csv.DictWriter[str] = csv.DictWriter(
        sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(entries)


def run_lines(cards: Sequence[RunCard], width: int, colours: bool = False) -> list[str]:
    """A header and one entry a run, in colours on request.

    Paths are never cut. What a run is, or why it failed, stands beside the numbers where `width` characters leave
    room for it, else below them.
    """
    rows = [["run", "state", "score", "params", "MACs", "duration"]]
    rows += [
        [card.run, card.state, percent(card.score), millions(card.parameters), giga(card.macs),
         duration(card.seconds)]
        for card in cards
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    used = sum(widths) + 2 * len(widths)
    beside = width - used >= _NARROW
    indent = used if beside else 4
    texts = ["what it is, or why it failed" if beside else ""]
    texts += [(card.cause if card.state == "failed" else card.what) or "" for card in cards]
    lines = []
    for (run, state, *numbers), text in zip(rows, texts, strict=True):
        shown = f"{state:<{widths[1]}}"
        if colours and state in COLOURS:
            shown = f"\033[{COLOURS[state]}m{shown}\033[0m"
        cells = [f"{cell:>{size}}" for cell, size in zip(numbers, widths[2:], strict=True)]
        line = "  ".join([f"{run:<{widths[0]}}", shown, *cells])
        told = textwrap.wrap(text, max(width - indent, 20))
        if beside:
            line, told = f"{line}  {told[0] if told else ''}", told[1:]
        lines += [line.rstrip(), *(f"{'':{indent}}{part}" for part in told)]
    return lines


def _two(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    if len(names) != 2:
        raise UsageError("compare: name two runs, compare=[1a2b3c4d,5e6f7a8b]")
    chosen = []
    for name in map(str, names):
        found = [
            run for run in runs if run.folder.name.startswith(name) or run.folder == Path(name)
        ]
        if len(found) != 1:
            what = "no run" if not found else f"{len(found)} runs: {[str(r.folder) for r in found]}"
            raise UsageError(f"compare: {name!r} names {what}")
        chosen += found
    return chosen


def comparison(one: Run, other: Run) -> Table:
    """The keys whose values differ, and the scores; keys that define the run come first."""
    table = Table(title="what differs", title_justify="left")
    table.add_column("key")
    for run in (one, other):
        table.add_column(str(run.folder), overflow="fold")
    persons = [flat({"persons": (run.identity or {}).get("persons", {})}) for run in (one, other)]
    first, second = flat(one.config) | persons[0], flat(other.config) | persons[1]
    defining = {*persons[0], *persons[1]}
    for run in (one, other):
        defining |= set(flat(defining_part(run.config)))
    keys = dict.fromkeys([*first, *second])
    differing = [key for key in keys if first.get(key, ABSENT) != second.get(key, ABSENT)]
    for key in sorted(differing, key=lambda key: (key not in defining, key)):
        label = key if key in defining else f"[dim]{key} (does not define the run)[/]"
        table.add_row(label, *(escape(str(each.get(key, "–"))) for each in (first, second)))
    table.add_section()
    table.add_row("state", one.status, other.status)
    scores = [(run.record or {}).get("scores", {}) for run in (one, other)]
    for name in dict.fromkeys(name for each in scores for name in each if "/" not in name):
        values = (each.get(name) for each in scores)
        table.add_row(name, *("–" if v is None else f"{v:.2f}" for v in values), style="bold")
    return table

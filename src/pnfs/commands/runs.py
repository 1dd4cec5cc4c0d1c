"""`pnfs runs`: lists runs, filters them, compares two."""

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pnfs.commands.configuration import UsageError
from pnfs.runs.finding import Run, find_runs
from pnfs.runs.identity import defining_part
from pnfs.runs.plain import json_ready
from pnfs.viz.cards import RunCard, duration, giga, millions, percent

STYLES = {"finished": "green", "running": "cyan", "interrupted": "yellow", "failed": "bold red"}

ORDERS: Mapping[str, Callable[[Run], Any]] = {
    "path": lambda run: str(run.folder),
    "score": lambda run: math.inf if (score := score_of(run)) is None else -score,
    "seconds": lambda run: (run.record or {}).get("seconds", math.inf),
    "macs": lambda run: (run.record or {}).get("cost", {}).get("macs", math.inf),
}

FORMATS = ("table", "csv", "json")
COLUMNS = ("run", "state", "score", "score_name", "parameters", "live_parameters", "macs", "seconds",
           "seed", "what", "cause")  # fmt: skip
_NARROW = 30
"""Less room than this beside the numbers: what a run is stands below them."""

console = Console()


def score_of(run: Run) -> float | None:
    """None before the end, and where the dataset could not be scored."""
    return (run.record or {}).get("score")


def run(config: DictConfig) -> None:
    own = OmegaConf.to_container(config, resolve=True)
    assert isinstance(own, dict)
    root = Path(own["run_root"]).expanduser()
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; set run_root=<folder of runs>")
    if own["sort"] not in ORDERS:
        raise UsageError(f"sort={own['sort']}: choose one of {', '.join(ORDERS)}")
    if own["format"] not in FORMATS:
        raise UsageError(f"format={own['format']}: choose one of {', '.join(FORMATS)}")
    runs = find_runs(root)
    if own["compare"] is not None:
        console.print(comparison(*_two(runs, own["compare"])))
        return
    chosen = sorted(filtered(runs, own["filter"] or {}), key=ORDERS[own["sort"]])
    cards = [card_of(run, root) for run in chosen]
    if own["format"] == "json":
        console.out(as_json(cards), highlight=False)
    elif own["format"] == "csv":
        console.out(as_csv(cards), highlight=False, end="")
    else:
        lines = run_lines(cards, console.width)
        head = f"{len(cards)} runs below {escape(str(root))}"
        console.print("\n".join([head, *lines]), soft_wrap=True, highlight=False)


def filtered(runs: Sequence[Run], conditions: Mapping[str, Any]) -> list[Run]:
    """The runs whose configuration has all these values; "state" is the run's own.

    Raises:
        UsageError: No run has such a key.
    """
    if not conditions:
        return list(runs)
    values = {run.folder: flat(run.config) | {"state": run.status} for run in runs}
    for key in conditions:
        if runs and not any(key in value for value in values.values()):
            raise UsageError(f"filter: no run has the key {key}")
    return [
        run
        for run in runs
        if all(values[run.folder].get(key, _ABSENT) == v for key, v in conditions.items())
    ]


_ABSENT = object()


def _two(runs: Sequence[Run], names: Sequence[str]) -> tuple[Run, Run]:
    if len(names) != 2:
        raise UsageError("compare: name two runs, compare=[1a2b3c4d,5e6f7a8b]")
    first, second = (_named(runs, str(name)) for name in names)
    return first, second


def _named(runs: Sequence[Run], name: str) -> Run:
    found = [run for run in runs if run.folder.name.startswith(name) or run.folder == Path(name)]
    if len(found) != 1:
        what = "no run" if not found else f"{len(found)} runs: {[str(r.folder) for r in found]}"
        raise UsageError(f"compare: {name!r} names {what}")
    return found[0]


def card_of(run: Run, root: Path) -> RunCard:
    """What its record, or in want of one its state, says about a run."""
    record = run.record or {}
    cost = record.get("cost", {})
    return RunCard(
        run=run.folder.relative_to(root).as_posix(),
        state=run.status,
        score=score_of(run),
        score_name=next(iter(record.get("scores", {})), ""),
        scores=record.get("scores", {}),
        parameters=cost.get("parameters"),
        live_parameters=cost.get("live_parameters"),
        macs=cost.get("macs"),
        seconds=record.get("seconds"),
        seed=run.config.get("seed"),
        what=summary(run.config),
        cause=run.cause,
    )


def as_json(cards: Sequence[RunCard]) -> str:
    """A list of objects with all scores; null for what is not known."""
    entries = [{name: getattr(card, name) for name in (*COLUMNS, "scores")} for card in cards]
    return json.dumps(json_ready(entries), indent=1, allow_nan=False)


def as_csv(cards: Sequence[RunCard]) -> str:
    """A header and one line a run; the scores besides the main one are left to JSON."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(json_ready([getattr(card, name) for name in COLUMNS]) for card in cards)
    return file.getvalue()


def run_lines(cards: Sequence[RunCard], width: int) -> list[str]:
    """A header and one entry a run, in rich's markup.

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
    indent, room = (used, width - used) if width - used >= _NARROW else (4, width - 4)
    lines = []
    for number, (run, state, *numbers) in enumerate(rows):
        style, what = "bold", "what it is, or why it failed" if indent == used else ""
        if number:
            card = cards[number - 1]
            style, what = STYLES[state], card.cause if state == "failed" else card.what
        cells = [f"{cell:>{size}}" for cell, size in zip(numbers, widths[2:], strict=True)]
        line = (
            f"{escape(f'{run:<{widths[0]}}')}  [{style}]{state:<{widths[1]}}[/]  {'  '.join(cells)}"
        )
        told = [escape(part) for part in textwrap.wrap(what or "", max(room, 20))]
        if indent == used:
            line, told = f"{line}  {told[0] if told else ''}", told[1:]
        lines += [line.rstrip(), *(f"{'':{indent}}{part}" for part in told)]
    return lines


def summary(config: Mapping[str, Any]) -> str:
    """What one wants to know first about a configuration."""
    model, dataset = config.get("model", {}), config.get("dataset", {})
    words = [_class(dataset), _class(model), _class(model.get("backbone"))]
    words += [f"P={len(model['parts'])}"] if model.get("parts") else []
    words += [f"d={model['vector_dim']}"] if "vector_dim" in model else []
    words += [_class(config.get("strategy")), f"seed {config.get('seed')}"]
    return " ".join(word for word in words if word)


def _class(node: Any) -> str:
    target = node.get("_target_") if isinstance(node, dict) else None
    return str(target).rsplit(".", 1)[-1] if target else ""


def comparison(one: Run, other: Run) -> Table:
    """The keys whose values differ, and the scores; keys that define the run come first."""
    table = Table(title="what differs", title_justify="left")
    table.add_column("key")
    for run in (one, other):
        table.add_column(str(run.folder), overflow="fold")
    persons = [flat({"persons": (run.identity or {}).get("persons", {})}) for run in (one, other)]
    first, second = flat(one.config) | persons[0], flat(other.config) | persons[1]
    defining = set(flat(defining_part(one.config))) | set(flat(defining_part(other.config)))
    defining |= {*persons[0], *persons[1]}
    differing = [
        key
        for key in dict.fromkeys([*first, *second])
        if first.get(key, _ABSENT) != second.get(key, _ABSENT)
    ]
    for key in sorted(differing, key=lambda key: (key not in defining, key)):
        label = key if key in defining else f"[dim]{key} (does not define the run)[/]"
        table.add_row(label, *(str(each.get(key, "–")) for each in (first, second)))
    table.add_section()
    table.add_row("state", one.status, other.status)
    scores = [flat((run.record or {}).get("scores", {})) for run in (one, other)]
    for name in dict.fromkeys(name for each in scores for name in each if "/" not in name):
        values = (each.get(name) for each in scores)
        table.add_row(name, *("–" if v is None else f"{v:.2f}" for v in values), style="bold")
    return table


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted key -> value; lists are values."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found.update(flat(value, f"{above}{key}."))
        else:
            found[f"{above}{key}"] = value
    return found

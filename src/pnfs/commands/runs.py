"""`pnfs runs`: lists runs, or writes one HTML page about all."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pnfs.commands.configuration import UsageError, console
from pnfs.commands.keys import flat
from pnfs.runs.identity import defining_part
from pnfs.runs.state import Run, find_runs
from pnfs.viz.cards import RunCard, duration, giga, millions, percent

COLUMNS = ("run", "state", "score", "score_name", "parameters", "live_parameters", "macs", "seconds",
           "seed", "what", "cause")  # fmt: skip
PICTURES = {"architecture": "architecture.png", "predictions": "predictions_val.png"}


def run(settings: dict[str, Any]) -> None:
    root, form, by = Path(settings["run_root"]).expanduser(), settings["format"], settings["sort"]
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; set run_root=<folder of runs>")
    if form not in ("table", "csv", "json"):
        raise UsageError(f"format={form}: choose table, csv or json")
    runs = find_runs(root)
    if settings["html"] is not None:
        write_page(runs, root, Path(settings["html"]).expanduser(), settings["pictured"])
        return
    cards = [card_of(run, root) for run in runs]
    if by != "path":
        # The highest score, but the shortest and the cheapest first; what is not known, last.
        sign = -1 if by == "score" else 1
        values = {card.run: getattr(card, by) for card in cards}
        cards.sort(key=lambda c: math.inf if values[c.run] is None else sign * values[c.run])
    if form == "table":
        print(f"{len(cards)} runs below {root}")
        print(*run_lines(cards, console.width), sep="\n")
        return
    import pandas as pd  # Here and not above: a list need not wait for it.

    # JSON with all scores, null for what is not known; CSV has blank cells.
    names = [*COLUMNS, "scores"] if form == "json" else [*COLUMNS]
    table = pd.DataFrame([vars(card) for card in cards], columns=names, dtype=object)
    written = table.to_json(orient="records", indent=1) if form == "json" else table.to_csv(index=False)
    print(written.rstrip())


# --- the list


def card_of(run: Run, root: Path) -> RunCard:
    """What its record, or in want of one its state, says about a run."""
    record = run.record or {}
    cost, scores = record.get("cost", {}), record.get("scores", {})
    model, seed = run.config.get("model", {}), run.config.get("seed")
    words = [_class(run.config.get("dataset")), _class(model), _class(model.get("backbone"))]
    words += [f"P={len(model['parts'])}"] if model.get("parts") else []
    words += [f"d={model['vector_dim']}"] if "vector_dim" in model else []
    words += [_class(run.config.get("strategy")), f"seed {seed}"]
    return RunCard(
        run=run.folder.relative_to(root).as_posix(),
        state=run.status,
        score=_number(record.get("score")),
        score_name=record.get("primary") or next(iter(scores), ""),
        scores={name: _number(score) for name, score in scores.items()},
        **{name: cost.get(name) for name in ("parameters", "live_parameters", "macs")},
        seconds=record.get("seconds"),
        seed=seed,
        what=" ".join(word for word in words if word),
        cause=run.cause,
    )


def _class(node: Any) -> str:
    target = node.get("_target_") if isinstance(node, dict) else None
    return str(target).rsplit(".", 1)[-1] if target else ""


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def run_lines(cards: Sequence[RunCard], width: int) -> list[str]:
    """A header and one entry a run.

    Paths are never cut. What a run is, or why it failed, stands below the numbers where `width` characters have no
    room for it beside them.
    """
    rows = [["run", "state", "score", "params", "MACs", "duration"]]
    rows += [
        [card.run, card.state, percent(card.score), millions(card.parameters), giga(card.macs),
         duration(card.seconds)]
        for card in cards
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = [(card.cause if card.state == "failed" else card.what) or "" for card in cards]
    lines = []
    for row, text in zip(rows, ["", *texts], strict=True):
        # Words to the left, numbers to the right.
        cells = [f"{cell:{'<' if n < 2 else '>'}{widths[n]}}" for n, cell in enumerate(row)]
        beside = sum(widths) + 2 * len(widths) + len(text) <= width
        lines.append("  ".join([*cells, text if beside else ""]).rstrip())
        below = [] if beside else textwrap.wrap(text, max(width - 4, 20))
        lines += [f"    {part}" for part in below]
    return lines


# --- the page


def write_page(runs: Sequence[Run], root: Path, path: Path, pictured: int) -> None:
    """Writes the page about these runs."""
    # Here and not above: a list need not wait for what draws.
    from pnfs.viz.runs_page import runs_page

    if not runs:
        raise UsageError(f"{root}: no run is to be shown; set run_root=<folder of runs>")
    about = {"title": "Pose fabrics: runs", "subtitle": f"{len(runs)} runs below {root}"}
    page, problems = runs_page(page_cards(runs, root), **about, pictured=pictured)
    for problem in problems:
        console.print(f"left out: {problem}", style="yellow")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    print(f"{len(runs)} runs: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def page_cards(runs: Sequence[Run], root: Path) -> list[RunCard]:
    """What the page says about each run: also its row, and what it draws."""
    cards = []
    for run, differing in zip(runs, _differences(runs), strict=True):
        name, dataset = str(run.config.get("name", "")), run.config.get("dataset", {})
        # Data and strategies draw by the run's seed too, unless one is set for them.
        seed = str(run.config.get("seed"))
        row = {k: v for k, v in differing.items() if k.split(".")[-1] != "seed" or v != seed}
        shown = ", ".join(f"{key}={value}" for key, value in _first(row).items())
        metrics = run.folder / "metrics.csv"
        pictures = {what: run.folder / file for what, file in PICTURES.items()}
        cards.append(
            replace(
                card_of(run, root),
                # Scores of one dataset and skeleton may stand on one axis.
                benchmark=", ".join(filter(None, (_class(dataset), dataset.get("skeleton")))),
                row=json.dumps([name, row]),
                label=f"{name}: {shown}" if shown else name,
                differences=_first(differing),
                # An empty one is of a run that stopped before the first epoch was over.
                metrics=metrics if metrics.is_file() and metrics.stat().st_size else None,
                pictures={what: path for what, path in pictures.items() if path.is_file()},
            )
        )
    return cards


def _differences(runs: Sequence[Run]) -> list[dict[str, str]]:
    """For each run the settings, as text, in which runs of its name differ."""
    import pandas as pd  # As above.

    trees = [flat(run.identity or defining_part(run.config)) for run in runs]
    values = [{k: str(v) for k, v in tree.items() if not isinstance(v, dict)} for tree in trees]
    table = pd.DataFrame(values, dtype=object).fillna("absent")
    found: list[dict[str, str]] = [{} for _ in runs]
    for _, members in table.groupby([str(run.config.get("name")) for run in runs]):
        for n, row in members.loc[:, members.nunique() > 1].iterrows():
            found[int(str(n))] = dict(row)
    return found


def _first(values: Mapping[str, str]) -> dict[str, str]:
    """The first eight, no value longer than its first 60 characters."""
    return {key: text[:60] for key, text in list(values.items())[:8]}

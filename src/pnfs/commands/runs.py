"""`pnfs runs`: lists runs, or writes one HTML page about all."""

import csv
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pnfs.commands.configuration import UsageError, console
from pnfs.runs.identity import defining_part, flat
from pnfs.runs.state import Run, find_runs

Card = dict[str, Any]
"""What is said about a run; None for what is not known, "shown": the numbers as text."""
COLUMNS = ("run", "state", "score", "score_name", "parameters", "live_parameters", "macs", "seconds",
           "seed", "what", "cause")  # fmt: skip
PICTURES = {"architecture": "architecture.png", "predictions": "predictions_val.png"}


def run(settings: dict[str, Any]) -> None:
    root, form = Path(settings["run_root"]).expanduser(), settings["format"]
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; set run_root=<folder of runs>")
    if form not in ("table", "csv", "json"):
        raise UsageError(f"format={form}: choose table, csv or json")
    runs = find_runs(root)
    if settings["html"] is not None:
        write_page(runs, root, Path(settings["html"]).expanduser())
        return
    cards = [card_of(run, root) for run in runs]
    if form == "table":
        print(f"{len(cards)} runs below {root}", *run_lines(cards, console.width), sep="\n")
    elif form == "json":
        print(json.dumps([{k: v for k, v in card.items() if k != "shown"} for card in cards], indent=1))
    else:
        table = csv.DictWriter(sys.stdout, list[str](COLUMNS), extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(cards)


def card_of(run: Run, root: Path) -> Card:
    """What its record, or in want of one its state, says about a run."""
    record = run.record or {}
    cost, score, seconds = record.get("cost", {}), record.get("score"), record.get("seconds")
    parameters, macs = cost.get("parameters"), cost.get("macs")
    config, model = run.config, run.config.get("model", {})
    words = [_class(config.get("dataset")), _class(model), _class(model.get("backbone"))]
    words += [f"P={len(model['parts'])}"] if model.get("parts") else []
    words += [f"d={model['vector_dim']}"] if "vector_dim" in model else []
    words += [_class(config.get("strategy")), f"seed {config.get('seed')}"]
    return {
        "run": run.folder.relative_to(root).as_posix(), "state": run.status,
        "score": score, "score_name": record.get("primary") or next(iter(record.get("scores", {})), ""),
        "parameters": parameters, "live_parameters": cost.get("live_parameters"), "macs": macs,
        "seconds": seconds, "seed": config.get("seed"),
        "what": " ".join(filter(None, words)), "cause": run.cause, "scores": record.get("scores", {}),
        "shown": {
            "score": "–" if score is None else f"{score:.1f}",
            "parameters": "–" if parameters is None else f"{parameters / 1e6:.2f} M",
            "macs": "–" if macs is None else f"{macs / 1e9:.3g} G",
            "seconds": "–" if seconds is None else _duration(seconds),
        },
    }  # fmt: skip


def _class(node: Any) -> str:
    return str(node.get("_target_", "")).rsplit(".", 1)[-1] if isinstance(node, Mapping) else ""


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def run_lines(cards: Sequence[Card], width: int) -> list[str]:
    """A header and one entry a run.

    Paths are never cut. What a run is, or why it failed, stands below the numbers where `width` characters have no
    room for it beside them.
    """
    rows = [["run", "state", "score", "params", "MACs", "duration"]]
    rows += [[card["run"], card["state"], *card["shown"].values()] for card in cards]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = [(card["cause"] if card["state"] == "failed" else card["what"]) or "" for card in cards]
    lines = []
    for row, text in zip(rows, ["", *texts], strict=True):
        # Words to the left, numbers to the right.
        cells = [f"{cell:{'<' if n < 2 else '>'}{widths[n]}}" for n, cell in enumerate(row)]
        beside = sum(widths) + 2 * len(widths) + len(text) <= width
        lines.append("  ".join([*cells, text if beside else ""]).rstrip())
        lines += [] if beside else [f"    {part}" for part in textwrap.wrap(text, max(width - 4, 20))]
    return lines


# --- the page


def write_page(runs: Sequence[Run], root: Path, path: Path) -> None:
    """Writes the page about these runs."""
    from pnfs.viz.runs_page import runs_page  # Here and not above: a list need not wait for what draws.

    if not runs:
        raise UsageError(f"{root}: no run is to be shown; set run_root=<folder of runs>")
    subtitle = f"{len(runs)} runs below {root}"
    page, problems = runs_page(page_cards(runs, root), title="Pose fabrics: runs", subtitle=subtitle)
    for problem in problems:
        console.print(f"left out: {problem}", style="yellow")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    print(f"{len(runs)} runs: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def page_cards(runs: Sequence[Run], root: Path) -> list[Card]:
    """What the page says about each run: also its row (`runs_page`), and files that it draws."""
    import pandas as pd  # As above.

    names = [str(run.config.get("name", "")) for run in runs]
    trees = [flat(run.identity or defining_part(run.config)) for run in runs]
    values = [{k: str(v) for k, v in tree.items() if not isinstance(v, dict)} for tree in trees]
    table = pd.DataFrame(values, dtype=object).fillna("absent")
    # The settings in which runs of a name differ.
    differing = {
        n: dict(row)
        for _, members in table.groupby(names)
        for n, row in members.loc[:, members.nunique() > 1].iterrows()
    }
    cards = []
    for n, (name, run) in enumerate(zip(names, runs, strict=True)):
        dataset, seed = run.config.get("dataset", {}), str(run.config.get("seed"))
        # Data and strategies draw by the run's seed too, unless one is set for them.
        row = {k: v for k, v in differing[n].items() if k.split(".")[-1] != "seed" or v != seed}
        metrics = run.folder / "metrics.csv"
        pictures = {what: run.folder / file for what, file in PICTURES.items()}
        cards.append({
            **card_of(run, root),
            # Scores of one dataset and skeleton may stand on one axis.
            "benchmark": ", ".join(filter(None, (_class(dataset), dataset.get("skeleton")))),
            "row": json.dumps([name, row]),
            "label": ": ".join(filter(None, (name, ", ".join(_first(row))))),
            "differences": _first(differing[n]),
            # An empty one is of a run that stopped before the first epoch was over.
            "metrics": metrics if metrics.is_file() and metrics.stat().st_size else None,
            "pictures": {what: path for what, path in pictures.items() if path.is_file()},
        })  # fmt: skip
    return cards


def _first(values: Mapping[str, str]) -> list[str]:
    """The first eight as "key=value", no value longer than its first 60 characters."""
    return [f"{key}={text[:60]}" for key, text in list(values.items())[:8]]

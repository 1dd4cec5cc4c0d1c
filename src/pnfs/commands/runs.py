"""`pnfs runs`: a list of runs, or one HTML page about all; `pnfs tables`: the paper's tables and figures."""

import csv
import functools
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pnfs.commands.configuration import UsageError, console, packaged_folder, plain
from pnfs.errors import PnfsError
from pnfs.runs.identity import defining_part, flat
from pnfs.runs.state import Run, find_runs
from pnfs.scores import digits

# Modules that draw are imported by the functions that need them: a list need not wait for them.

Card = dict[str, Any]
"""What is said about a run; None for what is not known, "shown": the numbers as text."""
COLUMNS = ("run", "state", "score", "score_name", "parameters", "live_parameters", "macs", "seconds",
           "seed", "what", "cause")  # fmt: skip
PICTURES = {"architecture": "architecture.png", "predictions": "predictions_val.png"}


def run(settings: dict[str, Any]) -> None:
    """Lists the runs below run_root, or writes the page about them."""
    root, form = Path(settings["run_root"]).expanduser(), settings["format"]
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; set run_root=<folder of runs>")
    if form not in ("table", "csv", "json"):
        raise UsageError(f"format={form}: choose table, csv or json")
    runs = find_runs(root)
    if settings["html"] is not None:
        from pnfs.viz.runs_page import runs_page

        if not runs:
            raise UsageError(f"{root}: no run is to be shown; set run_root=<folder of runs>")
        path, title = Path(settings["html"]).expanduser(), f"{len(runs)} runs below {root}"
        page = runs_page(page_cards(runs, root), title=title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        print(f"{len(runs)} runs: {path} ({path.stat().st_size / 1e6:.1f} MB)")
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
    name = record.get("primary") or next(iter(record.get("scores", {})), "")
    config, model = run.config, run.config.get("model", {})
    words = [_class(config.get("dataset")), _class(model), _class(model.get("backbone"))]
    words += [f"P={len(model['parts'])}"] if model.get("parts") else []
    words += [f"d={model['vector_dim']}"] if "vector_dim" in model else []
    words += [_class(config.get("strategy")), f"seed {config.get('seed')}"]
    minutes = round((seconds or 0) / 60)
    duration = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
    duration = duration if seconds is None or seconds >= 120 else f"{seconds:.0f} s"
    return {
        "run": run.folder.relative_to(root).as_posix(), "state": run.status,
        "score": score, "score_name": name,
        "parameters": parameters, "live_parameters": cost.get("live_parameters"), "macs": macs,
        "seconds": seconds, "seed": config.get("seed"),
        "what": " ".join(filter(None, words)), "cause": run.cause, "scores": record.get("scores", {}),
        "shown": {
            "score": "–" if score is None else f"{score:.{digits(name)}f}",
            "parameters": "–" if parameters is None else f"{parameters / 1e6:.2f} M",
            "macs": "–" if macs is None else f"{macs / 1e9:.3g} G",
            "seconds": "–" if seconds is None else duration,
        },
    }  # fmt: skip


def _class(node: Any) -> str:
    return str(node.get("_target_", "")).rsplit(".", 1)[-1] if isinstance(node, Mapping) else ""


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


def page_cards(runs: Sequence[Run], root: Path) -> list[Card]:
    """What the page says about each run: also its row (`runs_page`), and files that it draws."""
    import pandas as pd

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
        # The first eight, no value longer than its first 60 characters.
        short, every = ([f"{k}={v[:60]}" for k, v in [*each.items()][:8]] for each in (row, differing[n]))
        metrics = run.folder / "metrics.csv"
        pictures = {what: run.folder / file for what, file in PICTURES.items()}
        cards.append({
            **card_of(run, root),
            # Scores of one dataset and skeleton may stand on one axis.
            "benchmark": ", ".join(filter(None, (_class(dataset), dataset.get("skeleton")))),
            "row": json.dumps([name, row]),
            "label": ": ".join(filter(None, (name, ", ".join(short)))),
            "differences": every,
            # An empty one is of a run that stopped before the first epoch was over.
            "metrics": metrics if metrics.is_file() and metrics.stat().st_size else None,
            "pictures": {what: path for what, path in pictures.items() if path.is_file()},
        })  # fmt: skip
    return cards


# --- the paper's tables


def tables(settings: dict[str, Any]) -> None:
    """Writes table, figure and data of each target; says what is missing."""
    from pnfs.reproduce.page import draw_figures, write_table
    from pnfs.reproduce.results import find_results, kept_results, read_target, target_names

    profile = HydraConfig.get().runtime.choices.get("profile")
    if profile is None:
        raise UsageError("choose a profile: profile=paper, lspet, lspet_gpu or smoke")
    given = for_the_rows(HydraConfig.get().overrides.task)
    named = settings["experiments"]
    root = Path(named).expanduser() if named else packaged_folder("experiments")
    says = yaml.safe_load((root / "profiles.yaml").read_text(encoding="utf-8")).get(profile, "")
    chosen = target_names(root) if settings["target"] == "all" else settings["target"]
    runs = find_runs(Path(settings["run_root"]).expanduser() / settings["name"])
    for name in [chosen] if isinstance(chosen, str) else chosen:
        target = read_target(root, name)
        if settings["kept"]:
            results = kept_results(target, root / name / "runs" / profile)
        else:
            settings_of = functools.partial(row_settings, name, [f"profile={profile}", *given])
            results = find_results(target, settings_of, runs)
        folder = Path(settings["out"]).expanduser() / name / "results" / profile
        title = f"{target.title} (profile {profile})"
        written = write_table(target, results, folder, profile, says)
        written += draw_figures(target, results, folder, title)
        console.print(f"{title}: {len(results.finished)} of {len(results.runs)} runs are finished")
        console.print(f"written: {', '.join(map(str, written))}")


def for_the_rows(overrides: Sequence[str]) -> list[str]:
    """The overrides that `pnfs train` was given with every row."""
    names = {override: override.lstrip("+~").partition("=")[0] for override in overrides}
    for name in names.values():
        if name in ("seed", "experiment", "initial"):
            raise UsageError(f"{name}: a table shows all its rows, with every seed that there is")
    own = ("target", "experiments", "out", "kept", "profile", "hydra")
    return [o for o, name in names.items() if name.replace("/", ".").split(".")[0] not in own]


@functools.lru_cache(maxsize=64)
def _composed(*overrides: str) -> DictConfig:
    return compose("train", list(overrides))


def row_settings(table: str, overrides: Sequence[str], row: str, seed: int) -> dict[str, Any]:
    """The configuration of a table's row, a file of `conf/experiment/<table>/`, as `pnfs train` resolves it.

    A `PnfsError` says why the overrides do not go with it.
    """
    try:
        config = _composed(f"experiment={table}/{row}", *overrides).copy()
        # Without their hash, which would read the dataset.
        config.merge_with({"seed": seed, "run_name": "", "run_dir": ""})
        return plain(config)
    except (HydraException, OmegaConfBaseException, UsageError) as error:
        raise PnfsError(" ".join(str(error).split())) from None

"""`pnfs dashboard`: one HTML page about all runs, or a workspace at Weights & Biases."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from pnfs.commands.configuration import UsageError, plain
from pnfs.commands.runs import card_of, filtered, flat
from pnfs.runs.finding import Run, find_runs
from pnfs.runs.identity import defining_part
from pnfs.runs.metrics_file import METRICS
from pnfs.viz.cards import RunCard
from pnfs.viz.dashboard import dashboard_page
from pnfs.viz.workspace import build_workspace

if TYPE_CHECKING:  # An extra, not always installed.
    from wandb_workspaces.workspaces import Workspace

console = Console()

PICTURES = {"architecture": "architecture.png", "predictions": "predictions_val.png"}
_LONGEST_VALUE = 60
_MOST_DIFFERENCES = 8
_ABSENT = "absent"
_NAMED = ("parts", "operations")
# Their values stand in model, loss and data, or in the choices themselves.
_REPEATED = ("parts", "backbone", "operations", "fabric", "data")


def run(config: DictConfig) -> None:
    settings = plain(config)
    if settings["wandb"] is not None:
        save_workspace(workspace(str(settings["wandb"])))
        return
    root = Path(settings["run_root"]).expanduser()
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; set run_root=<folder of runs>")
    runs = filtered(find_runs(root), settings["filter"] or {})
    if not runs:
        raise UsageError(f"{root}: no run is to be shown; set run_root=<folder of runs>, or filter")
    out = Path(settings["out"] or root / "dashboard.html").expanduser()
    page, problems = dashboard_page(
        cards_of(runs, root),
        title="Pose fabrics: runs",
        subtitle=f"{len(runs)} runs below {root}",
        pictured=int(settings["pictured"]),
    )
    for problem in problems:
        console.print(f"[yellow]left out:[/] {escape(problem)}", soft_wrap=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    size = out.stat().st_size / 1e6
    console.print(f"{len(runs)} runs: {out} ({size:.1f} MB)", soft_wrap=True)


def cards_of(runs: Sequence[Run], root: Path) -> list[RunCard]:
    """What the page says about each run."""
    differing = _differences(runs)
    return [_card(run, root, differing[run.folder]) for run in runs]


def _card(run: Run, root: Path, differing: Mapping[str, str]) -> RunCard:
    name = str(run.config.get("name", ""))
    row = {key: value for key, value in differing.items() if key != "seed"}
    shown = ", ".join(f"{key}={value}" for key, value in _shortened(row).items())
    metrics = run.folder / METRICS
    pictures = {what: run.folder / file for what, file in PICTURES.items()}
    return replace(
        card_of(run, root),
        benchmark=_benchmark(run.config),
        row=json.dumps([name, row]),
        label=f"{name}: {shown}" if shown else name,
        differences=_shortened(differing),
        # An empty one is of a run that stopped before the first epoch was over.
        metrics=metrics if metrics.is_file() and metrics.stat().st_size else None,
        pictures={what: path for what, path in pictures.items() if path.is_file()},
    )


def _benchmark(config: Mapping[str, Any]) -> str:
    """Scores of one dataset and skeleton may stand on one axis."""
    dataset = config.get("dataset", {})
    words = [str(dataset.get("_target_", "unknown")).rsplit(".", 1)[-1]]
    skeleton = dataset.get("skeleton")
    words += (
        [str(skeleton.get("name") if isinstance(skeleton, Mapping) else skeleton)]
        if skeleton
        else []
    )
    return ", ".join(words)


def _differences(runs: Sequence[Run]) -> dict[Path, dict[str, str]]:
    """For each run, the defining values by which the runs of its experiment differ.

    Where they differ in much, only those that are not the experiment's most common ones.
    """
    experiments: dict[Any, list[Run]] = {}
    for run in runs:
        experiments.setdefault(run.config.get("name"), []).append(run)
    found: dict[Path, dict[str, str]] = {}
    for members in experiments.values():
        values = _differing_values([run.config for run in members])
        keys = dict.fromkeys(key for each in values for key in each)
        counts = {key: Counter(each.get(key, _ABSENT) for each in values) for key in keys}
        differing = [key for key in keys if len(counts[key]) > 1]
        usual: dict[str, str] = {}
        if len(differing) > _MOST_DIFFERENCES:
            usual = {key: counts[key].most_common(1)[0][0] for key in differing}
        for run, each in zip(members, values, strict=True):
            own = {key: each.get(key, _ABSENT) for key in differing}
            found[run.folder] = {k: v for k, v in own.items() if usual.get(k) != v}
    return found


def _differing_values(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each run, key -> value of what may differ and defines a run."""
    everything = [flat(_told_once(config)) for config in configs]
    first = everything[0]
    differing = {
        key
        for each in everything
        for key in first.keys() | each.keys()
        if each.get(key, _ABSENT) != first.get(key, _ABSENT)
    }
    # Only now, for thousands of runs: what defines a run is found out on a copy of what is left.
    return [
        {
            key: _text(key, value)
            for key, value in flat(defining_part(_nested(each, differing))).items()
        }
        for each in everything
    ]


def _text(key: str, value: Any) -> str:
    return str(value).rsplit(".", 1)[-1] if key.endswith("_target_") else str(value)


def _told_once(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without groups that other groups repeat; parts and operations by their names."""
    return {key: _named(value) for key, value in config.items() if key not in _REPEATED}


def _named(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {
        key: ", ".join(value) if key in _NAMED and isinstance(value, dict) else _named(value)
        for key, value in tree.items()
    }


def _nested(values: Mapping[str, Any], keys: Set[str]) -> dict[str, Any]:
    """The tree of those dotted keys."""
    tree: dict[str, Any] = {}
    for key in values.keys() & keys:
        *above, last = key.split(".")
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = values[key]
    return tree


def _shortened(values: Mapping[str, str]) -> dict[str, str]:
    shown = {
        key: text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
        for key, text in list(values.items())[:_MOST_DIFFERENCES]
    }
    further = len(values) - len(shown)
    return shown | ({"further keys": str(further)} if further else {})


def workspace(place: str) -> "Workspace":
    """The workspace of "entity/project", not saved.

    Raises:
        UsageError: `place` is not of this form, or wandb-workspaces is not installed.
    """
    entity, sign, project = place.partition("/")
    if not (sign and entity and project) or "/" in project:
        raise UsageError(f"wandb={place}: expected <user or team>/<project>, e.g. my-team/pnfs")
    try:
        return build_workspace(entity, project)
    except ModuleNotFoundError as error:
        raise UsageError(
            f'wandb={place}: {error.name} is not installed; pip install "pnfs[wandb]"'
        ) from None


def save_workspace(view: "Workspace") -> None:
    """Creates the workspace and prints its address.

    Raises:
        UsageError: Not logged in, no network, or no right to write there.
    """
    from wandb.errors import Error  # An extra, not always installed.

    try:
        view.save()
        console.print(f"workspace: {view.url}", soft_wrap=True)
    except (Error, OSError, ValueError) as error:
        raise UsageError(
            f"the workspace of {view.entity}/{view.project} cannot be saved: {error}; "
            "`wandb login`, and check that the project exists"
        ) from error

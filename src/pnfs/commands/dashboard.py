"""`pnfs dashboard`: one HTML page about all runs, or a workspace at Weights & Biases."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from pnfs.commands.configuration import UsageError, plain
from pnfs.commands.runs import filtered, flat, summary
from pnfs.data.persons import DataError
from pnfs.training.identity import defining_part
from pnfs.training.metrics_file import METRICS
from pnfs.training.records import Run, find_runs
from pnfs.viz.curves import Curve, read_metrics
from pnfs.viz.dashboard import RunCard, dashboard_page
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
    cards = cards_of(runs, root)
    for card in cards:
        for problem in card.problems:
            console.print(f"[yellow]left out:[/] {problem}", soft_wrap=True)
    page = dashboard_page(
        cards,
        title="Pose fabrics: runs",
        subtitle=f"{len(runs)} runs below {root}",
        pictured=int(settings["pictured"]),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    size = out.stat().st_size / 1e6
    console.print(f"{len(runs)} runs: {out} ({size:.1f} MB)", soft_wrap=True)


def cards_of(runs: Sequence[Run], root: Path) -> list[RunCard]:
    """What the page says about each run."""
    differences = _differences(runs)
    return [
        _card(run, root, differences[run.folder]) for run in track(runs, "reading", transient=True)
    ]


def _card(run: Run, root: Path, differences: Mapping[str, str]) -> RunCard:
    record = run.record or {}
    cost = record.get("cost", {})
    curves, problems = _curves(run.folder / METRICS)
    paths = {what: run.folder / name for what, name in PICTURES.items()}
    return RunCard(
        path=str(run.folder.relative_to(root)),
        state=run.status,
        name=str(run.config.get("name", "")),
        benchmark=_benchmark(run.config),
        summary=summary(run.config),
        differences=differences,
        cause=run.cause,
        score=record.get("score"),
        score_name=next(iter(record.get("scores", {})), ""),
        parameters=cost.get("parameters"),
        macs=cost.get("macs"),
        seconds=record.get("seconds"),
        curves=curves,
        pictures={what: path for what, path in paths.items() if path.is_file()},
        problems=problems,
    )


def _benchmark(config: Mapping[str, Any]) -> str:
    """Scores of one dataset and skeleton may stand on one axis."""
    dataset = config.get("dataset", {})
    words = [str(dataset.get("_target_", "unknown")).rsplit(".", 1)[-1]]
    words += [str(dataset["skeleton"])] if "skeleton" in dataset else []
    return ", ".join(words)


def _curves(path: Path) -> tuple[dict[str, Curve], list[str]]:
    """Logged metrics by bare name, and what could not be read."""
    if not path.is_file() or not path.stat().st_size:
        return {}, []  # Stopped before the first epoch was over.
    try:
        logged = read_metrics(path)
    except DataError as error:
        return {}, [str(error)]
    # Lightning adds the suffix where a metric is logged both per step and per epoch.
    return {name.removesuffix("_epoch"): curve for name, curve in logged.items()}, []


def _differences(runs: Sequence[Run]) -> dict[Path, dict[str, str]]:
    """For each run, the defining values by which the runs of its experiment differ.

    Where they differ in much, only those that are not the experiment's most common ones.
    """
    found: dict[Path, dict[str, str]] = {}
    for name in dict.fromkeys(run.config.get("name") for run in runs):
        members = [run for run in runs if run.config.get("name") == name]
        values = [_defining_values(run.config) for run in members]
        keys = list(dict.fromkeys(key for each in values for key in each))
        counts = {key: Counter(each.get(key, _ABSENT) for each in values) for key in keys}
        differing = {key: count for key, count in counts.items() if len(count) > 1}
        usual: dict[str, str] = {}
        if len(differing) > _MOST_DIFFERENCES:
            usual = {key: count.most_common(1)[0][0] for key, count in differing.items()}
        for run, each in zip(members, values, strict=True):
            own = {key: each.get(key, _ABSENT) for key in differing}
            found[run.folder] = _shortened({k: v for k, v in own.items() if usual.get(k) != v})
    return found


def _defining_values(config: Mapping[str, Any]) -> dict[str, str]:
    """Key -> value, without groups that other groups repeat; parts and operations by their names."""
    part = {key: value for key, value in defining_part(config).items() if key not in _REPEATED}
    return {
        key: str(value).rsplit(".", 1)[-1] if key.endswith("_target_") else str(value)
        for key, value in flat(_named(part)).items()
    }


def _named(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: (", ".join(value) if key in _NAMED else _named(value))
        if isinstance(value, Mapping)
        else value
        for key, value in tree.items()
    }


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

"""`pnfs reproduce`: trains the rows of the paper's tables and figures, and makes them from the records."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pnfs.body import Skeleton
from pnfs.commands.configuration import (
    UsageError,
    build_source,
    choose_parts,
    configuration_folder,
    plain,
)
from pnfs.reproduce.figures import FIGURES
from pnfs.reproduce.results import PlannedRun, RowResult, read_results
from pnfs.reproduce.tables import summary, title, write_table
from pnfs.reproduce.targets import Row, Target, chosen_rows, read_target, target_names
from pnfs.reproduce.workers import Outcome, run_jobs
from pnfs.training.identity import read_digests, run_folder
from pnfs.training.records import LAST_CHECKPOINT, cause_of, find_same, keep_failure, read_run

OWN_KEYS = {"target", "experiments", "rows", "seeds", "jobs", "fail_fast", "train", "profile"}

console = Console()


def run(config: DictConfig) -> None:
    """Trains what is missing, then writes tables and figures; exits with 1 if a run failed."""
    overrides = list(HydraConfig.get().overrides.task)
    named = [o.split("=", 1)[1] for o in overrides if o.startswith("profile=")]
    if not named:
        raise UsageError("choose a profile: profile=paper, profile=lspet or profile=smoke")
    own = OmegaConf.to_container(config, resolve=True)
    assert isinstance(own, dict)
    failed = reproduce(
        targets=own["target"],
        profile=named[-1],
        experiments=Path(own["experiments"]).expanduser(),
        overrides=passed_on(overrides),
        labels=own["rows"],
        seeds=own["seeds"],
        jobs=own["jobs"],
        fail_fast=own["fail_fast"],
        train=own["train"],
    )
    if failed:
        sys.exit(1)


def passed_on(overrides: Sequence[str]) -> list[str]:
    """The overrides that are for the trainings.

    Raises:
        UsageError: One would make rows the same run.
    """
    names = {override: override.lstrip("+~").split("=", 1)[0] for override in overrides}
    if "seed" in names.values():
        raise UsageError("every row has its own seeds: seeds=[0,1,2] in place of seed=")
    if "initial" in names.values():
        raise UsageError("initial= would give every row the same model; use `pnfs train` for that")
    return [override for override, name in names.items() if name not in OWN_KEYS]


def reproduce(
    *,
    targets: str | Sequence[str],
    profile: str,
    experiments: Path,
    overrides: Sequence[str] = (),
    labels: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    jobs: int = 1,
    fail_fast: bool = False,
    train: bool = True,
) -> list[str]:
    """Trains and writes; see conf/reproduce.yaml for the arguments.

    Returns:
        What went wrong, a line a failure.

    Raises:
        UsageError: The arguments do not go together.
        TargetError: There is no such target, profile or row.
    """
    names = target_names(experiments) if targets == "all" else targets
    chosen = [
        read_target(experiments, name, profile)
        for name in ([names] if isinstance(names, str) else names)
    ]
    plans = {target.name: plan(target, overrides, seeds) for target in chosen}
    failed = []
    if train:
        rows = [row for row in chosen_rows(chosen, labels) if not row.cannot]
        todo = [run for runs in plans.values() for run in runs if run.row in rows]
        failed = train_all(todo, jobs=jobs, fail_fast=fail_fast)
    for target in chosen:
        write(target, read_results(plans[target.name], target.rows), experiments)
    return failed


def plan(target: Target, overrides: Sequence[str], seeds: Sequence[int] | None) -> list[PlannedRun]:
    """The runs that a target consists of, each found by composing its configuration.

    What makes a row has the last word, so that overrides for all rows leave them different.
    """
    common = [f"profile={target.profile}", *target.overrides, *overrides]
    folders = RunFolders()
    return [
        _planned(row, seed, [*common, *row.overrides], folders)
        for row in target.rows
        if not row.cannot
        for seed in (row.seeds if seeds is None else seeds)
    ]


def _planned(row: Row, seed: int, overrides: list[str], folders: "RunFolders") -> PlannedRun:
    given = (*overrides, f"seed={seed}")
    try:
        settings = plain(configuration_of(given))
        folder = folders.of(settings)
    except (HydraException, OmegaConfBaseException, ValueError, ImportError) as error:
        return PlannedRun(row, seed, given, None, {}, problem=cause_of(error))
    return PlannedRun(row, seed, given, folder, settings)


class RunFolders:
    """Where runs are or will be. Reads each dataset once; tables can be made without it."""

    def __init__(self) -> None:
        self._digests: dict[str, dict[str, str] | None] = {}

    def of(self, settings: dict[str, Any]) -> Path:
        """The folder of a run.

        Raises:
            UsageError: The dataset is not at hand, and several runs of this configuration differ in theirs.
        """
        persons = self._persons(settings["dataset"])
        if persons is not None:
            return run_folder(settings, persons)
        found = [run.folder for run in find_same(settings)]
        if len(found) > 1:
            raise UsageError(
                f"{', '.join(map(str, found))} are runs of one configuration on different data, and the dataset "
                "that would tell which is meant is not there: set dataset.root"
            )
        return found[0] if found else run_folder(settings)

    def _persons(self, dataset: dict[str, Any]) -> dict[str, str] | None:
        key = json.dumps(dataset, sort_keys=True)
        if key not in self._digests:
            try:
                self._digests[key] = read_digests(build_source(dataset))
            except (HydraException, ValueError, OSError):
                # Training says what is wrong with the data, in the run that needs them.
                self._digests[key] = None
        return self._digests[key]


def configuration_of(overrides: Sequence[str]) -> DictConfig:
    """What `pnfs train` makes of overrides, parts chosen; needs no data."""
    if GlobalHydra.instance().is_initialized():
        config = compose("train", list(overrides))
    else:
        with initialize_config_dir(version_base="1.3", config_dir=str(configuration_folder())):
            config = compose("train", list(overrides))
    choose_parts(config, _skeleton(config))
    return config


def _skeleton(config: DictConfig) -> str:
    """Of the dataset; its class knows in most cases, which saves looking for files."""
    known = getattr(get_object(config.dataset["_target_"]), "skeleton", None)
    if isinstance(known, Skeleton):
        return known.name
    return build_source(plain(config.dataset)).skeleton.name


@dataclass(frozen=True)
class TrainingJob:
    """A run to train; travels to a worker."""

    label: str
    folder: Path
    settings: dict[str, Any]


def train_one(job: TrainingJob) -> None:
    """Trains a run in a worker."""
    # The worker needs Lightning, the parent does not.
    from pnfs.commands import main, train

    main.quiet_libraries()
    try:
        train.run(OmegaConf.create(job.settings))
    except Exception as error:
        keep_failure(job.folder, job.settings, error)
        raise
    # Only an unfinished run resumes from it; with the optimiser's state it fills disks.
    (job.folder / LAST_CHECKPOINT).unlink(missing_ok=True)


def train_all(planned: Sequence[PlannedRun], *, jobs: int, fail_fast: bool) -> list[str]:
    """Trains what is not finished; says at once what failed, and why."""
    failed = [f"{_label(run)}: {run.problem}" for run in planned if run.problem]
    for line in failed:
        _say_failed(line)
    todo: dict[Path, TrainingJob] = {}
    finished: set[Path] = set()
    for run in planned:
        if run.folder is None or run.folder in todo or run.folder in finished:
            continue
        before = read_run(run.folder)
        if before is not None and before.status == "finished" and not run.settings["restart"]:
            finished.add(run.folder)
        else:
            todo[run.folder] = TrainingJob(_label(run), run.folder, dict(run.settings))
    console.print(f"{len(finished)} runs finished before, {len(todo)} to do, {jobs} at once")
    if failed and fail_fast:
        return failed
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("runs", total=len(todo))

        def started(job: TrainingJob) -> None:
            progress.console.print(
                f"started: {escape(job.label)} in {job.folder}", soft_wrap=True, highlight=False
            )

        outcomes = run_jobs(
            train_one, list(todo.values()), log_of=log_of, processes=jobs, fail_fast=fail_fast,
            on_start=started,
        )  # fmt: skip
        for outcome in outcomes:
            progress.advance(task)
            _report(outcome, progress.console.print)
            if outcome.cause is not None:
                failed.append(f"{outcome.job.label}: {outcome.cause}")
    return failed


def log_of(job: TrainingJob) -> Path:
    """Everything a run prints."""
    return job.folder / "train.log"


def _label(run: PlannedRun) -> str:
    return f"{run.row.label}, seed {run.seed}"


def _report(outcome: Outcome[TrainingJob], say: Callable[..., None]) -> None:
    if outcome.cause is None:
        line = f"[green]finished[/]: {escape(outcome.job.label)} ({outcome.seconds:.0f} s)"
        say(line, soft_wrap=True, highlight=False)
    else:
        _say_failed(f"{outcome.job.label}: {outcome.cause} (log: {log_of(outcome.job)})", say)


def _say_failed(line: str, say: Callable[..., None] = console.print) -> None:
    say(f"[bold red]failed[/]: {escape(line)}", soft_wrap=True, highlight=False)


def write(target: Target, results: Sequence[RowResult], experiments: Path) -> Path:
    """Table, figure and their data of a target; shows the table."""
    folder = experiments / target.name / "results" / target.profile
    written = write_table(target, results, folder)
    draw = FIGURES.get(target.kind)
    if draw is not None and (picture := draw(target, results, folder)) is not None:
        written["figure"] = picture
    console.print(summary_table(target, results))
    console.print(f"written: {', '.join(map(str, written.values()))}", soft_wrap=True)
    return folder


def summary_table(target: Target, results: Sequence[RowResult]) -> Table:
    """What the terminal shows; the files say more."""
    header, rows = summary(target, results)
    table = Table(title=title(target), title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table

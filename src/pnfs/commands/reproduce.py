"""`pnfs reproduce`: trains the rows of the paper's tables and figures, and makes them from the records."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pnfs.commands.configuration import UsageError
from pnfs.commands.planning import check_roots, plan
from pnfs.commands.quiet import quiet_libraries
from pnfs.reproduce.figures import FIGURES
from pnfs.reproduce.results import PlannedRun, RowResult, read_results
from pnfs.reproduce.tables import summary, title, write_table
from pnfs.reproduce.targets import Target, chosen_rows, read_target, target_names
from pnfs.reproduce.workers import Outcome, run_jobs
from pnfs.runs.finding import read_run
from pnfs.runs.state import LAST_CHECKPOINT, keep_failure

OWN_KEYS = {
    "target", "experiments", "rows", "seeds", "jobs", "fail_fast", "train", "profile", "roots",
}  # fmt: skip

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
        roots=own["roots"],
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
    return [o for o, name in names.items() if name.split(".")[0] not in OWN_KEYS]


def reproduce(
    *,
    targets: str | Sequence[str],
    profile: str,
    experiments: Path,
    overrides: Sequence[str] = (),
    roots: Mapping[str, str | None] | None = None,
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
    plans = {target.name: plan(target, overrides, seeds, roots) for target in chosen}
    check_roots([run for runs in plans.values() for run in runs], overrides, roots or {})
    failed = []
    if train:
        rows = [row for row in chosen_rows(chosen, labels) if not row.cannot]
        todo = [run for runs in plans.values() for run in runs if run.row in rows]
        failed = train_all(todo, jobs=jobs, fail_fast=fail_fast)
    for target in chosen:
        write(target, read_results(plans[target.name], target.rows), experiments)
    return failed


@dataclass(frozen=True)
class TrainingJob:
    """A run to train; travels to a worker."""

    label: str
    folder: Path
    settings: dict[str, Any]


def train_one(job: TrainingJob) -> None:
    """Trains a run in a worker."""
    # The worker needs Lightning, the parent does not.
    from pnfs.commands import train

    quiet_libraries()
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

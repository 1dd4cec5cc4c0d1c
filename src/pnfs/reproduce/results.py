"""What came out: the rows of a target with the runs of each, read from their records."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pnfs.reproduce.targets import COSTS, Row
from pnfs.training.records import Run, read_run

SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class PlannedRun:
    """One run of a row: what defines it, and where it is or will be."""

    row: Row
    seed: int
    overrides: tuple[str, ...]
    """What `pnfs train` is given to make this run."""
    folder: Path | None
    """None if the configuration cannot be composed."""
    settings: Mapping[str, Any]
    """The resolved configuration; empty if it cannot be composed."""
    problem: str = ""
    """Why it cannot be composed."""


@dataclass(frozen=True)
class RowResult:
    """A row of a table, its planned runs, and the finished ones of them."""

    row: Row
    planned: tuple[PlannedRun, ...]
    finished: tuple[Run, ...]
    missing: tuple[str, ...]
    """For each run without a record, what there is instead."""

    @property
    def records(self) -> list[Mapping[str, Any]]:
        return [run.record for run in self.finished if run.record is not None]

    def values(self, name: str) -> list[float]:
        """A score ("PCKh@0.5"), "parameters", "live_parameters", "macs" or "days", of each record."""
        if name == "days":
            return [record["seconds"] * devices(record) / SECONDS_A_DAY for record in self.records]
        if name in (*COSTS, "live_parameters"):
            return [float(record["cost"][name]) for record in self.records]
        found = (record["scores"].get(name) for record in self.records)
        return [value for value in found if value is not None]

    @property
    def devices(self) -> str:
        """What the runs computed on."""
        return ", ".join(dict.fromkeys(record["device"] for record in self.records))


def read_results(planned: Sequence[PlannedRun], rows: Sequence[Row]) -> list[RowResult]:
    """The rows with what the folders of their runs hold.

    Raises:
        ValueError: A record is damaged.
    """
    results = []
    for row in rows:
        runs = [run for run in planned if run.row == row]
        found = [(run, read_run(run.folder) if run.folder else None) for run in runs]
        results.append(
            RowResult(
                row=row,
                planned=tuple(runs),
                finished=tuple(run for _, run in found if run and run.status == "finished"),
                missing=tuple(
                    _instead(plan, run)
                    for plan, run in found
                    if run is None or run.status != "finished"
                ),
            )
        )
    return results


def _instead(plan: PlannedRun, run: Run | None) -> str:
    if plan.problem:
        return f"seed {plan.seed}: {plan.problem}"
    if run is None:
        return f"seed {plan.seed}: not run"
    return f"seed {plan.seed}: {run.status}" + (f" ({run.cause})" if run.cause else "")


def devices(record: Mapping[str, Any]) -> int:
    """How many devices a run computed on at once."""
    trainer = record["config"]["trainer"]
    number = trainer.get("devices", 1)
    if isinstance(number, (list, tuple)):
        number = len(number)
    return (number if isinstance(number, int) and number > 0 else 1) * trainer.get("num_nodes", 1)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the sample standard deviation of two or more values."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def score_names(results: Sequence[RowResult]) -> list[str]:
    """Scores worth a column: those the paper prints, and means over all joints of the records."""
    printed = [name for result in results for name in result.row.paper if name not in COSTS]
    recorded = [
        name
        for result in results
        for record in result.records
        for name in record["scores"]
        if "/" not in name or name in printed
    ]
    return list(dict.fromkeys([*printed, *recorded]))


def scale(results: Sequence[RowResult]) -> str:
    """What the runs have in common: data, size of the input, epochs, persons, batch."""
    settings = [run.settings for result in results for run in result.planned if run.settings]
    parts = []
    for name, read in _SCALE.items():
        values = {read(each) for each in settings}
        if len(values) == 1:
            parts.append(f"{name}{values.pop()}")
        elif values:
            parts.append(f"{name}{' or '.join(sorted(map(str, values)))}")
    return ", ".join(part for part in parts if part)


def _persons(settings: Mapping[str, Any]) -> str:
    dataset = settings["dataset"]
    if isinstance(dataset.get("train"), int):
        return f"{dataset['train']} persons train, {dataset['val']} validate"
    return ""


_SCALE = {
    "data ": lambda s: s["dataset"]["_target_"].rsplit(".", 1)[-1],
    "": _persons,
    "input ": lambda s: "×".join(map(str, s["input_size"])),
    "epochs ": lambda s: s["epochs"],
    "batch ": lambda s: s["batch_size"],
    "precision ": lambda s: s["trainer"]["precision"],
}

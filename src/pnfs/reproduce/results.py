"""What came out: the rows of a target with the runs of each, read from their records."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pnfs.reproduce.published import Published
from pnfs.reproduce.targets import Row
from pnfs.runs.finding import Run, read_run

SECONDS_A_DAY = 86_400

COSTS = ("parameters", "live_parameters", "macs", "macs_by_output")
"""What records hold about a network's cost; macs_by_output counts transposed convolutions by their output."""


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
        """A score ("PCKh@0.5"), one of `COSTS` or "days", of each record that has it."""
        if name == "days":
            return [record["seconds"] * devices(record) / SECONDS_A_DAY for record in self.records]
        if name in COSTS:
            costs = [record["cost"] for record in self.records]
            return [float(cost[name]) for cost in costs if name in cost]
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


def score_names(results: Sequence[RowResult], published: Sequence[Published] = ()) -> list[str]:
    """Scores worth a column: those the paper prints, and means over all joints of the records."""
    papers = [*published, *(result.row.paper for result in results)]
    printed = list(dict.fromkeys(name for paper in papers if paper for name in paper.scores))
    recorded = [
        name
        for result in results
        for record in result.records
        for name in record["scores"]
        if "/" not in name or name in printed
    ]
    return list(dict.fromkeys([*printed, *recorded]))


def first_scores(
    results: Sequence[RowResult], published: Sequence[Published] = ()
) -> tuple[str | None, str | None]:
    """The score that counts: as the paper prints it, and as the records hold it."""
    names = score_names(results, published)
    papers = [*published, *(result.row.paper for result in results)]
    printed = [name for name in names if any(paper and name in paper.scores for paper in papers)]
    recorded = [name for name in names if any(r.values(name) for r in results)]
    return next(iter(printed), None), next(iter(recorded), None)


def groups(results: Sequence[RowResult]) -> list[tuple[str, list[RowResult]]]:
    """Rows whose scores may stand in one column: those with the same data and the same backbone.

    Rows without a run, of which neither is known, go with the first group.

    Returns:
        (backbone, data, or both: whatever tells the groups apart; rows), in the order of the first rows.
    """
    known = {
        result.row.label: conditions(run.settings)
        for result in results
        for run in reversed(result.planned)
        if run.settings
    }
    first = next(iter(known.values()), ("", ""))
    found: dict[tuple[str, str], list[RowResult]] = {}
    for result in results:
        found.setdefault(known.get(result.row.label, first), []).append(result)
    differ = [len({key[n] for key in found}) > 1 for n in (0, 1)]
    return [
        (", ".join(name for name, told in zip(key, differ, strict=True) if told), rows)
        for key, rows in found.items()
    ]


def conditions(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Backbone and data of a run in words, such as "ResNet (depth 50, pretrained)" and "MPII"."""
    backbone = (settings.get("model") or {}).get("backbone") or settings.get("backbone") or {}
    about = [f"{name} {backbone[name]}" for name in _SIZES if backbone.get(name) is not None]
    about += ["pretrained"] if backbone.get("weights", "none") != "none" else []
    name = _class(backbone) + (f" ({', '.join(about)})" if about else "")
    dataset = settings["dataset"]
    data = _class(dataset) + (f" ({dataset['skeleton']})" if dataset.get("skeleton") else "")
    return name, data


def _class(description: Mapping[str, Any]) -> str:
    return str(description.get("_target_", "")).rsplit(".", 1)[-1]


_SIZES = ("depth", "width", "backbone_layers", "channels", "nodes")
"""Keys of a backbone that tell two of one class apart."""


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

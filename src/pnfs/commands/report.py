"""What every evaluation leaves behind: tables, pictures, a record, and what loggers show."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from rich.console import Console

from pnfs.commands.score_tables import benchmark_table, described, joint_table
from pnfs.commands.scoring import log_media, write_score_pictures
from pnfs.data.module import PoseDataModule
from pnfs.data.predictions import Matches
from pnfs.evaluation.person_metric import PersonMetric
from pnfs.runs.record import write_result
from pnfs.runs.wandb_run import finished_wandb

console = Console()


def report(
    record: dict[str, Any],
    folder: Path,
    data: PoseDataModule,
    matches: Matches,
    settings: Mapping[str, Any],
    draw: Callable[[], dict[str, Path]],
) -> None:
    """Prints, writes, draws and logs what an evaluation found.

    Args:
        record: What `result.json` is to hold; rates by joint are added.
        folder: Where everything goes.
        data: The predicted persons.
        matches: The labelled persons and their predictions.
        settings: Settings of the command.
        draw: Writes the pictures that do not show errors; title -> file.
    """
    source, split = data.source, settings["split"]
    metric, errors = source.metric(split), matches.errors
    criterion = metric.criterion() if isinstance(metric, PersonMetric) else None
    is_scored = bool(errors.scored.any())
    if is_scored and criterion is not None:
        record["by_joint"] = errors.record(criterion)
    # Scores are safe before anything else is written that may fail.
    write_result(folder, record)
    name = source.persons(split).name
    if math.isnan(record["score"]):
        lack = "no labels" if not errors.visibility.any() else "no sizes to measure errors by"
        console.print(f"[bold]{name} has {lack}: nothing is scored.[/]")
    else:
        title = f"{name}, {len(matches.predictions):,} persons"
        console.print(benchmark_table(title, record["scores"]))
        choices = described(record["evaluated_with"])
        console.print(choices, style="dim", highlight=False, soft_wrap=True)
        if "by_joint" in record:
            console.print(joint_table(record["by_joint"]))
    pictures = draw()
    if is_scored and criterion is not None:
        pictures |= write_score_pictures(data, folder, split, matches, criterion)
    with loggers_of(settings["logger"], folder) as loggers:
        for logger in loggers:
            evaluated = {k: record[k] for k in ("checkpoint", "predictions") if k in record}
            logger.log_hyperparams({**evaluated, **record["evaluated_with"]})
            logger.log_metrics({f"{split}/{k}": v for k, v in record["scores"].items()}, step=0)
        log_media(loggers, pictures)
    for what, picture in pictures.items():
        console.print(f"{what}: {picture}", soft_wrap=True)
    console.print(f"record: {folder / 'result.json'}", soft_wrap=True)


@contextmanager
def loggers_of(entries: Mapping[str, Any], folder: Path) -> Iterator[list[Logger]]:
    """The loggers that the logger group names, ended with the block."""
    loggers: list[Logger] = []
    for name, entry in entries.items():
        label = f"{folder.parent.name}-{folder.name}"
        extra = {"name": label, "job_type": "evaluate"} if name == "wandb" else {}
        folder.mkdir(parents=True, exist_ok=True)
        loggers.append(instantiate(entry, save_dir=str(folder), **extra))
    with finished_wandb(loggers):
        try:
            yield loggers
        finally:
            for logger in loggers:
                logger.finalize("success" if sys.exc_info()[0] is None else "failed")

"""What came out of a training: its record, on disk, on screen and at the loggers."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from rich.console import Console

from pnfs.commands.report import log_media
from pnfs.commands.score_tables import described, score_table
from pnfs.data.datasets.base import PoseDataset
from pnfs.models.cost import measure_cost
from pnfs.runs.record import RESULT, provenance, write_result
from pnfs.runs.wandb_run import log_summary
from pnfs.training.module import PoseModule

console = Console()
log = logging.getLogger(__name__)


def training_record(
    settings: dict[str, Any],
    module: PoseModule,
    source: PoseDataset,
    scores: dict[str, float],
    untrained: dict[str, float],
    seconds: float,
    choices: dict[str, Any],
) -> dict[str, Any]:
    """The record of a finished training.

    Args:
        settings: Resolved configuration.
        module: With its best weights.
        source: The dataset.
        scores: By metric, the main one first.
        untrained: Scores before training; may be empty.
        seconds: Time that all starts of the run have taken.
        choices: How it was scored.
    """
    height, width = settings["input_size"]
    cost = measure_cost(module.network, (height, width))
    return {
        "name": settings["name"],
        "seed": settings["seed"],
        "kind": "train",
        "primary": next(iter(scores)),
        "score": next(iter(scores.values())),
        "scores": scores,
        "untrained_scores": untrained,
        "evaluated_with": choices,
        "cost": {
            "parameters": cost.parameters,
            "live_parameters": cost.live_parameters,
            "macs": cost.macs,
            # The summary in public pose code, and so the paper, counts this way.
            "macs_by_output": measure_cost(module.network, (height, width), "output").macs,
        },
        "seconds": round(seconds, 1),
        **provenance(settings["trainer"]["accelerator"]),
        "config": settings,
        "data": {split: source.persons(split).account() for split in ("train", "val")},
    }


def keep_record(
    folder: Path,
    record: Mapping[str, Any],
    identity: Mapping[str, Any],
    loggers: Sequence[Logger],
    pictures: Mapping[str, Path],
) -> None:
    """Writes `result.json`, tells the loggers, and shows scores and pictures."""
    write_result(folder, dict(record) | {"identity": identity})
    log_summary(loggers, record, folder)
    log_media(loggers, pictures, record["config"]["trainer"]["max_epochs"])
    columns = {"untrained": record["untrained_scores"], "trained": record["scores"]}
    show_scores(record["config"], {name: scores for name, scores in columns.items() if scores})
    console.print(described(record["evaluated_with"]))
    for what, path in pictures.items():
        log.info("%s: %s", what, path)
    log.info("%s: %s; record: %s", record["primary"], record["score"], folder / RESULT)


def show_scores(settings: Mapping[str, Any], columns: Mapping[str, Mapping[str, float]]) -> None:
    """Prints a table of scores: column -> metric -> score."""
    target = settings["dataset"]["_target_"].rsplit(".", 1)[-1]
    model = settings["model"]
    what = f"P={len(model['parts'])}" if "parts" in model else model["_target_"].rsplit(".", 1)[-1]
    console.print(score_table(f"{target} val, {what}, flip test", columns))


def main_score(record: Mapping[str, Any]) -> float:
    """The score of a record; nan where it has none."""
    score = record["score"]
    return math.nan if score is None else float(score)

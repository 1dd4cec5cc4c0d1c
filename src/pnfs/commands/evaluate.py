"""`pnfs evaluate`: score a trained network."""

import hashlib
import inspect
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from hydra.utils import get_class, instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from rich.console import Console

from pnfs.codec.decode import DecodeMethod
from pnfs.commands.configuration import UsageError, build_source, plain, without_downloads
from pnfs.commands.scoring import (
    evaluation_choices,
    log_media,
    matches_of,
    require_whole_split,
    score_and_predict,
    warn_of_last,
    write_pictures,
    write_predictions,
    write_score_pictures,
)
from pnfs.commands.tables import benchmark_table, described, joint_table
from pnfs.commands.train import build_module
from pnfs.data.module import PoseDataModule, Source
from pnfs.data.predictions import Benchmark, Predictions
from pnfs.evaluation.breakdown import Breakdown, criterion_of
from pnfs.training.checkpoints import CONFIG_KEY, find_checkpoint, read_checkpoint
from pnfs.training.module import PoseModule
from pnfs.training.records import LAST_CHECKPOINT, provenance, write_result
from pnfs.training.wandb_run import finished_wandb

console = Console()


def run(config: DictConfig) -> float:
    """Scores one checkpoint; nan for a split without labels."""
    settings = plain(config)
    check_settings(settings)
    path = find_checkpoint(settings["checkpoint"])
    checkpoint = read_checkpoint(path, check=not settings["trust"])
    trained = without_downloads(checkpoint[CONFIG_KEY])
    dataset = with_choices(
        chosen_dataset(settings["dataset"], trained["dataset"]), settings["eval"]
    )
    source = build_source(dataset, trained["input_size"])
    if source.skeleton.name != trained["model"]["skeleton"]:
        raise UsageError(
            f"{path} predicts the joints of skeleton {trained['model']['skeleton']}, "
            f"the dataset has those of {source.skeleton.name}"
        )
    module = load_module(settings, trained, checkpoint, source)
    data = PoseDataModule(
        source=source,
        input_size=tuple(trained["input_size"]),
        batch_size=settings["eval_batch_size"],
        workers=settings["workers"],
    )
    split = settings["split"]
    console.print(f"checkpoint: {path}", soft_wrap=True)
    console.print(source.persons(split).described(), soft_wrap=True, highlight=False)
    # A file that was named is what was asked for; of a folder the best is expected.
    fell_back = path.name == LAST_CHECKPOINT.name and Path(settings["checkpoint"]).name != path.name
    if fell_back:
        warn_of_last(path)
    scores, predictions = score_and_predict(module, data, settings["trainer"], split)
    if isinstance(source, Benchmark):
        scores |= source.breakdown(split, predictions)
    choices = evaluation_choices(module, source, split) | {"input_size": trained["input_size"]}
    if fell_back:
        choices["weights"] = "last"
    folder = result_folder(settings["out"], path, split, {"choices": choices, "dataset": dataset})
    record = {
        "checkpoint": str(path),
        "score": next(iter(scores.values())),
        "scores": scores,
        "evaluated_with": choices,
        "persons": len(predictions),
        "data": {split: source.persons(split).account()},
        **provenance(settings["trainer"]["accelerator"]),
        "dataset": dataset,
    }
    breakdown = Breakdown(matches_of(source, split, predictions), predictions)
    report(record, folder, module, data, breakdown, settings)
    return float(record["score"])


def report(
    record: dict[str, Any],
    folder: Path,
    module: PoseModule,
    data: PoseDataModule,
    breakdown: Breakdown,
    settings: Mapping[str, Any],
) -> None:
    """Prints, writes, draws and logs what an evaluation found."""
    source, split = data.source, settings["split"]
    criterion = criterion_of(source.metric(split))
    is_scored = bool(breakdown.scored.any())
    if is_scored and criterion is not None:
        record["by_joint"] = breakdown.record(criterion)
    # Scores are safe before anything else is written that may fail.
    write_result(folder, record)
    name = source.persons(split).name
    if math.isnan(record["score"]):
        lack = "no labels" if not breakdown.has_labels else "no sizes to measure errors by"
        console.print(f"[bold]{name} has {lack}: nothing is scored.[/] Predictions are written.")
    else:
        title = f"{name}, {len(breakdown.predictions):,} persons"
        console.print(benchmark_table(title, record["scores"]))
        choices = described(record["evaluated_with"])
        console.print(choices, style="dim", highlight=False, soft_wrap=True)
        if "by_joint" in record:
            console.print(joint_table(record["by_joint"]))
    pictures = write_pictures(module, data, folder, split)
    if is_scored and criterion is not None:
        pictures |= write_score_pictures(data, folder, split, breakdown, criterion)
    with loggers_of(settings["logger"], folder) as loggers:
        for logger in loggers:
            logger.log_hyperparams({"checkpoint": record["checkpoint"], **record["evaluated_with"]})
            logger.log_metrics({f"{split}/{k}": v for k, v in record["scores"].items()}, step=0)
        log_media(loggers, pictures)
    for what, picture in pictures.items():
        console.print(f"{what}: {picture}", soft_wrap=True)
    console.print(f"record: {folder / 'result.json'}", soft_wrap=True)
    written = write_named_predictions(settings["eval"]["name"], source, split, breakdown, folder)
    console.print(f"predicted joints: {written}", soft_wrap=True)


def write_named_predictions(
    name: str | None, source: Source, split: str, breakdown: Breakdown, folder: Path
) -> Path:
    """Writes the predictions; without a name for them, under that of the run's folder."""
    chosen = re.sub(r"[^A-Za-z0-9._-]", "-", folder.parent.name) or "pnfs"
    predictions: Predictions = breakdown.predictions
    return write_predictions(source, split, predictions, folder, chosen if name is None else name)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses a part of a split, and what no decoder and no flip test knows, before anything is loaded.

    Raises:
        UsageError: Names the key and its choices.
    """
    require_whole_split(settings["trainer"])
    allowed = {"decode_method": get_args(DecodeMethod), "flip_shift": (0, 1)}
    for key, choices in allowed.items():
        if settings[key] is not None and settings[key] not in choices:
            raise UsageError(
                f"{key} must be one of {', '.join(map(str, choices))}, not {settings[key]!r}"
            )


def load_module(
    settings: Mapping[str, Any],
    trained: dict[str, Any],
    checkpoint: Mapping[str, Any],
    source: Source,
) -> PoseModule:
    """The trained network with the evaluation's choices."""
    module = build_module(trained, source)
    module.load_weights(checkpoint["state_dict"])
    module.flip_test = settings["flip_test"]
    if settings["flip_shift"] is not None:
        module.flip_shift = settings["flip_shift"]
    if settings["decode_method"] is not None:
        module.decode_method = settings["decode_method"]
    return module


def chosen_dataset(asked: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """The dataset of the command line; without one, the checkpoint's with the keys given."""
    if "_target_" in asked:
        return asked
    return trained | {key: value for key, value in asked.items() if value is not None}


def with_choices(dataset: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset with the choices of `eval` that are given.

    Raises:
        UsageError: The dataset does not offer such a choice.
    """
    chosen = {k: v for k, v in asked.items() if k != "name" and v is not None}
    called = get_class(dataset["_target_"])
    offered = inspect.signature(called).parameters
    for key in chosen:
        if key not in offered:
            raise UsageError(
                f"eval.{key}={chosen[key]}: {called.__name__} offers no such choice; it is for "
                "datasets with detected boxes, such as COCO"
            )
    return dataset | chosen


def result_folder(out: str | None, checkpoint: Path, split: str, defining: Any) -> Path:
    """`out`, or a folder beside the checkpoint's of its own for each way to evaluate."""
    if out is not None:
        return Path(out).expanduser()
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:8]
    return checkpoint.parent.parent / f"evaluate_{split}_{digest}"


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

"""`pnfs evaluate`: score a trained network, or a file of predictions."""

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from hydra.utils import get_class
from omegaconf import DictConfig
from rich.console import Console

from pnfs.codec.decode import DecodeMethod
from pnfs.commands import evaluate_file
from pnfs.commands.building import build_module, data_of_run
from pnfs.commands.configuration import UsageError, build_source, plain
from pnfs.commands.report import report
from pnfs.commands.scoring import (
    evaluation_choices,
    matches_of,
    require_whole_split,
    score_and_predict,
    warn_of_last,
    write_pictures,
    write_predictions,
)
from pnfs.data.module import Source
from pnfs.data.predictions import Benchmark, Predictions
from pnfs.runs.record import provenance
from pnfs.runs.state import LAST_CHECKPOINT
from pnfs.training.checkpoints import (
    CONFIG_KEY,
    find_checkpoint,
    read_checkpoint,
    without_downloads,
)
from pnfs.training.module import PoseModule

console = Console()


def run(config: DictConfig) -> float:
    """Scores one checkpoint, or one file of predictions; nan for a split without labels."""
    settings = plain(config)
    check_settings(settings)
    if settings["predictions"] is not None:
        return evaluate_file.run(settings)
    path = find_checkpoint(settings["checkpoint"])
    checkpoint = read_checkpoint(path, trust=settings["trust"])
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
    data = data_of_run(
        trained, source, batch_size=settings["eval_batch_size"], workers=settings["workers"]
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
        scores |= source.extra_scores(split, predictions)
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
    matches = matches_of(source, split, predictions)
    draw = partial(write_pictures, module, data, folder, split, predictions)
    report(record, folder, data, matches, settings, draw)
    written = write_named_predictions(settings["eval"]["name"], source, split, predictions, folder)
    console.print(f"predicted joints: {written}", soft_wrap=True)
    return float(record["score"])


def write_named_predictions(
    name: str | None, source: Source, split: str, predictions: Predictions, folder: Path
) -> Path:
    """Writes the predictions; without a name for them, under that of the run's folder."""
    chosen = re.sub(r"[^A-Za-z0-9._-]", "-", folder.parent.name) or "pnfs"
    return write_predictions(source, split, predictions, folder, chosen if name is None else name)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses a part of a split, and what no decoder and no flip test knows, before anything is loaded.

    Raises:
        UsageError: Names the key and its choices, or keys that do not go together.
    """
    require_whole_split(settings["trainer"])
    if (settings["checkpoint"] is None) == (settings["predictions"] is None):
        given = "neither is given" if settings["checkpoint"] is None else "both are given"
        raise UsageError(
            f"evaluate scores either a network, checkpoint=…, or a file, predictions=…: {given}"
        )
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

"""`pnfs evaluate`: score a trained network, or a file of predicted poses."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics import MetricCollection

from pnfs.commands import scoring
from pnfs.commands.building import build_dataset, build_module, data_for, read_trained, trained_network
from pnfs.commands.configuration import UsageError, console
from pnfs.data.datasets.base import PoseDataset, with_every_split
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import UNLABELLED, UNMATCHED, Matches, Predictions, listed
from pnfs.evaluation.person_metric import PersonMetric
from pnfs.runs.state import LAST_CHECKPOINT, RESULT, provenance, write_result
from pnfs.training.checkpoints import results_place
from pnfs.training.module import PoseModule, keep_freed_memory

PICTURE_SIZE = (256, 256)
"""(height, width) of the crops in pictures of a file's poses, px; nothing else depends on it."""


def run(settings: dict[str, Any]) -> float:
    """Scores one checkpoint, or file of predictions; nan for a split without labels."""
    for key, value in settings["trainer"].items():
        limits = key.startswith("limit_") or key in ("overfit_batches", "fast_dev_run")
        if limits and value is not None:
            raise UsageError(f"trainer.{key}={value}: a score is of the whole split; leave this key out")
    if settings["out"]:
        scoring.out_folder(settings["out"], "evaluate")  # Refused now, not after an hour of scoring.
    if settings["predictions"] is None:
        return _network(settings | {"checkpoint": settings["checkpoint"] or "shipped"})
    for key in ("checkpoint", "name", "decode_method", "flip_shift"):
        if settings[key] is not None:
            raise UsageError(
                f"{key}= is of a network, predictions= of a file, which is scored as it stands: leave one"
            )
    return _file(settings)


def _network(settings: dict[str, Any]) -> float:
    split, trainer = settings["split"], settings["trainer"]
    keep_freed_memory()  # Half the time at 256x256 is the system's otherwise.
    path, trained, content = read_trained(settings)
    config, data = data_for(settings, trained, trained["model"]["skeleton"], path)
    dataset = data.dataset
    module = build_module(trained, dataset, trained_network(trained, content, path))
    module.flip_test = settings["flip_test"]
    asked = {key: settings[key] for key in ("flip_shift", "decode_method") if settings[key] is not None}
    module.codec = replace(module.codec, **asked)
    console.print(f"scored: {path}\n{dataset.persons(split).described()}")
    scores, predictions = scoring.score_and_predict(module, data, trainer, split)
    choices = scoring.evaluation_choices(module, dataset, split)
    choices |= {"padding": dataset.padding, "input_size": list(data.input_size)}
    choices |= {"precision": str(trainer.get("precision") or "32-true")}
    if path.name == LAST_CHECKPOINT.name:
        choices["weights"] = "last"
    record = {
        "checkpoint": str(path), "scores": scores, **provenance(trainer["accelerator"]),
        "evaluated_with": choices, "persons": len(predictions),
        "data": {split: dataset.persons(split).account()}, "dataset": config,
    }  # fmt: skip
    place = results_place(path, settings["run_root"], f"evaluate_{split}")
    folder = scoring.result_folder(settings["out"], place.parent, place.name, [choices, config])
    score = _report(record, folder, data, dataset.matches(split, predictions), split, module)
    name = settings["name"] or folder.parent.name or "pnfs"
    console.print(f"predicted joints: {dataset.write_predictions(split, predictions, folder, name)}")
    return score


def _file(settings: Mapping[str, Any]) -> float:
    """Scores a file; see conf/evaluate.yaml."""
    if "_target_" not in settings["dataset"]:
        raise UsageError("predictions=… is scored on a dataset by name: add dataset=coco dataset.root=…")
    split = settings["split"]
    # A detector's boxes have no part in it.
    dataset = with_every_split(build_dataset(settings["dataset"]), split).in_labelled_boxes()
    file = Path(settings["predictions"]).expanduser()
    poses = dataset.read_predictions(split, file)
    console.print(f"predictions: {file} ({poses.format})")
    if poses.left_out:
        console.print(f"left out of the file: {listed(poses.left_out)}")
    matches, labels = poses.matches, poses.matches.labels
    scores = poses.scores or _scores(dataset, split, matches.predictions)
    console.print(labels.described())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    record = {
        "predictions": {
            "file": str(file), "format": poses.format, "sha256": digest, "persons": poses.count,
            "left_out": dict(poses.left_out),
        },
        "scores": scores, **provenance(),
        "evaluated_with": {"split": split, "predictions": poses.format, "boxes": "as predicted"},
        "persons": poses.count, "persons_without_prediction": int(np.sum(matches.rows == UNMATCHED)),
        "data": {split: labels.account()}, "dataset": settings["dataset"],
    }  # fmt: skip
    sizes = {"batch_size": settings["eval_batch_size"], "workers": settings["workers"]}
    data = PoseDataModule(dataset=dataset, input_size=PICTURE_SIZE, **sizes)
    # Not beside the file, whose folder may be read-only.
    parent = Path(settings["run_root"]) / "predictions"
    defining = [digest, split, settings["dataset"]]
    folder = scoring.result_folder(settings["out"], parent, f"{file.stem}_{split}", defining)
    return _report(record, folder, data, matches, split)


def _scores(dataset: PoseDataset, split: str, predictions: Predictions) -> dict[str, float]:
    """The benchmark's own scores; a person of whom the file has nothing counts as wrong."""
    persons = dataset.persons(split)
    # The collection gives each metric only those arguments that it takes.
    metric = MetricCollection([dataset.metric(split)])
    metric.update(
        predicted=torch.from_numpy(predictions.locations),
        scores=torch.from_numpy(predictions.scores),
        joints_image=torch.from_numpy(persons.joints),
        labelled=torch.from_numpy(persons.visibility > UNLABELLED),
        reference_length=torch.from_numpy(persons.reference_length),
        sample_index=torch.arange(len(persons)),
    )
    return {name: float(value) for name, value in metric.compute().items()}


def _report(
    record: dict[str, Any],
    folder: Path,
    data: PoseDataModule,
    matches: Matches,
    split: str,
    module: PoseModule | None = None,
) -> float:
    """Prints, writes into `folder` and draws what an evaluation found; returns the score that counts, the first.

    `module`, None for a file, predicted the persons of `data`, which `matches` brings together with the labels.
    """
    primary, score = next(iter(record["scores"].items()))
    errors, name, metric = matches.errors, data.dataset.persons(split).name, data.dataset.metric(split)
    record |= {"kind": "evaluate", "primary": primary, "score": score}
    criterion = metric.criterion() if isinstance(metric, PersonMetric) and errors.scored.any() else None
    if criterion is not None:
        record["by_joint"] = errors.record(criterion)
    if unsized := int((errors.visibility.any(-1) & ~errors.scored.any(-1)).sum()):
        record["persons_without_size"] = unsized
    # Scores are safe before anything else is written that may fail.
    write_result(folder, record)
    if math.isnan(score):
        lack = "no labels" if not errors.visibility.any() else "no sizes to measure errors by"
        console.print(f"{name} has {lack}: nothing is scored.", style="bold")
    else:
        title = f"{name}, {len(matches.predictions):,} persons"
        console.print(scoring.score_table(title, {"": record["scores"]}))
        console.print(scoring.described(record["evaluated_with"]), style="dim")
        if unsized:
            console.print(f"{unsized:,} persons have no size to measure errors by: they are not scored")
    pictures = scoring.write_pictures(module, data, folder, split, matches.predictions, matches)
    if "predictions" not in pictures:
        console.print("pictures are left out: no pose matches a label; are the coordinates pixels of the images?")
    for what, file in {**pictures, "record": folder / RESULT}.items():
        console.print(f"{what}: {file}")
    return float(score)

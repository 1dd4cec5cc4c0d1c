"""`pnfs evaluate`: score a trained network, or a file of predicted poses."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from torchmetrics import MetricCollection

from pnfs.commands.building import (
    build_module,
    chosen_dataset,
    data_of_run,
    read_trained,
    source_for,
)
from pnfs.commands.configuration import UsageError, build_network, build_source, plain
from pnfs.commands.report import report, result_folder
from pnfs.commands.scoring import evaluation_choices, require_whole_split, score_and_predict
from pnfs.data.datasets.base import PoseDataset, with_every_split
from pnfs.data.datasets.coco import COCO
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import UNLABELLED, listed
from pnfs.data.pose_files import assign, coco_scores, read_pose_file
from pnfs.data.predictions import UNMATCHED, Predictions
from pnfs.inference.loading import chosen_runtime, load_predictor, runtime_of
from pnfs.inference.predictor import ScoredPredictor
from pnfs.runs.record import provenance
from pnfs.runs.state import LAST_CHECKPOINT
from pnfs.training.checkpoints import (
    CONFIG_KEY,
    find_checkpoint,
    load_network_state,
    read_checkpoint,
    results_folder,
)
from pnfs.training.module import PoseModule

PICTURE_SIZE = (256, 256)
"""(height, width) of the crops in pictures of a file's poses, px; nothing else depends on it."""

console = Console()


def run(config: DictConfig) -> float:
    """Scores one checkpoint, exported file, or file of predictions; nan for a split without labels."""
    settings = plain(config)
    require_whole_split(settings["trainer"])
    if settings["checkpoint"] is not None and settings["predictions"] is not None:
        raise UsageError(
            "evaluate scores either a network, checkpoint=…, or a file, predictions=…: both are given"
        )
    if settings["checkpoint"] is None and settings["predictions"] is None:
        settings["checkpoint"] = "shipped"
    return _network(settings) if settings["predictions"] is None else _file(settings)


# --- a network


class Scored(NamedTuple):
    """A trained network, or an exported file in `run`, ready to be scored on the crops that it was trained on."""

    run: Path
    module: PoseModule | ScoredPredictor
    data: PoseDataModule
    dataset: dict[str, Any]
    trainer: dict[str, Any]
    computed: dict[str, str]
    """Runtime and precision."""


def _network(settings: dict[str, Any]) -> float:
    path, split = find_checkpoint(settings["checkpoint"]), settings["split"]
    found = (exported_file if path.suffix == ".onnx" else checkpoint)(settings, path)
    source = found.data.source
    console.print(f"scored: {path}", soft_wrap=True)
    console.print(source.persons(split).described(), soft_wrap=True, highlight=False)
    scores, predictions = score_and_predict(found.module, found.data, found.trainer, split)
    scores |= source.extra_scores(split, predictions)
    choices = evaluation_choices(found.module, source, split)
    choices |= {"input_size": list(found.data.input_size), **found.computed}
    if path.name == LAST_CHECKPOINT.name:
        choices["weights"] = "last"
    record = {
        "checkpoint": str(path),
        **_outcome(settings, scores, choices, found.trainer["accelerator"]),
        "persons": len(predictions),
        "data": {split: source.persons(split).account()},
        "dataset": found.dataset,
    }
    defining = [choices, found.dataset]
    folder = result_folder(settings["out"], found.run, f"evaluate_{split}", defining)
    matches = source.matches(split, predictions)
    report(record, folder, found.data, matches, split, found.module)
    name = settings["name"]
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", folder.parent.name) or "pnfs"
    written = source.write_predictions(split, predictions, folder, name)
    console.print(f"predicted joints: {written}", soft_wrap=True)
    return float(record["score"])


def _outcome(
    settings: Mapping[str, Any],
    scores: Mapping[str, float],
    choices: Mapping[str, Any],
    accelerator: str = "auto",
) -> dict[str, Any]:
    """What the records of networks and of files have in common."""
    return {
        "kind": "evaluate",
        "primary": next(iter(scores)),
        "score": next(iter(scores.values())),
        "scores": scores,
        "evaluated_with": choices,
        **provenance(accelerator),
    }


def checkpoint(settings: Mapping[str, Any], path: Path) -> Scored:
    """A checkpoint with the evaluation's choices."""
    chosen_runtime(path, settings["runtime"], settings["precision"])
    _, trained, content = read_trained(settings)
    dataset, data = _data(settings, trained, trained["model"]["skeleton"], path)
    module = build_module(trained, data.source)
    load_network_state(module.network, content, path)
    module.flip_test = settings["flip_test"]
    asked = {key: settings[key] for key in ("flip_shift", "decode_method")}
    asked = {key: value for key, value in asked.items() if value is not None}
    module.codec = replace(module.codec, **asked)
    precision = settings["trainer"].get("precision")
    # In the words of the other runtimes, where they have one.
    precision = "f32" if precision in (None, 32, "32", "32-true") else str(precision)
    computed = {"runtime": "torch", "precision": precision}
    folder = results_folder(path, settings["run_root"])
    return Scored(folder, module, data, dataset, settings["trainer"], computed)


def exported_file(settings: Mapping[str, Any], path: Path) -> Scored:
    """An exported file; its dataset is named, or that of the run in whose folder it lies."""
    predictor = load_predictor(
        path,
        build=build_network,
        batch_size=settings["eval_batch_size"],
        **{key: settings[key] for key in ("runtime", "precision", "decode_method", "flip_shift")},
    )
    trained: dict[str, Any] = {}
    if (path.parent / "checkpoints").is_dir():
        content = read_checkpoint(path.parent, builds=("dataset",), trust=settings["trust"])
        trained = content[CONFIG_KEY]
    elif "_target_" not in settings["dataset"]:
        raise UsageError(
            f"{path} lies in no run's folder, whose dataset could be taken: add dataset=… dataset.root=…"
        )
    as_trained = {
        "dataset": trained.get("dataset", {}),
        "input_size": predictor.input_size,
        "codec": {"unbiased": predictor.codec.unbiased},
        "data": trained.get("data", {}),
    }
    dataset, data = _data(settings, as_trained, predictor.skeleton.name, path)
    metric = data.source.metric(settings["split"])
    module = ScoredPredictor(predictor, metric, settings["flip_test"])
    # Exported files run in this process; what the trainer says of devices is for PyTorch.
    target = settings["trainer"]["_target_"]
    trainer = {"_target_": target, "accelerator": "cpu", "devices": 1}
    return Scored(path.parent, module, data, dataset, trainer, runtime_of(predictor))


def _data(
    settings: Mapping[str, Any], trained: Mapping[str, Any], skeleton: str, path: Path
) -> tuple[dict[str, Any], PoseDataModule]:
    """The dataset's configuration, and the crops in it as a network was trained on."""
    dataset = chosen_dataset(settings["dataset"], trained["dataset"])
    source = source_for(dataset, trained["input_size"], skeleton, path)
    source = with_every_split(source, settings["split"])
    batch_size, workers = settings["eval_batch_size"], settings["workers"]
    return dataset, data_of_run(trained, source, batch_size=batch_size, workers=workers)


# --- a file of predicted poses


def _file(settings: Mapping[str, Any]) -> float:
    """Scores a file; see conf/evaluate.yaml."""
    if "_target_" not in settings["dataset"]:
        raise UsageError(
            "predictions=… is scored on a dataset by name: add dataset=coco dataset.root=…"
        )
    for key in ("name", "decode_method", "flip_shift", "runtime", "precision"):
        if settings[key] is not None:
            raise UsageError(
                f"{key} is for a network's predictions; those of a file are scored as they stand"
            )
    split = settings["split"]
    source = with_every_split(build_source(settings["dataset"]), split)
    truth = source.annotations(split) if isinstance(source, COCO) else None
    poses = read_pose_file(settings["predictions"], source.skeleton, truth)
    console.print(f"predictions: {poses.path} ({poses.format})", soft_wrap=True, highlight=False)
    if poses.left_out:
        console.print(f"left out of the file: {listed(poses.left_out)}", highlight=False)
    # A detector's boxes have no part in it.
    source = source.in_labelled_boxes()
    matches = assign(poses, source, split)
    if isinstance(source, COCO):
        scores = coco_scores(poses, source, split)
    else:
        scores = _scores(source, split, matches.predictions)
    labels = matches.labels
    console.print(labels.described(), soft_wrap=True, highlight=False)
    digest = hashlib.sha256(poses.path.read_bytes()).hexdigest()
    choices = {"split": split, "predictions": poses.format, "boxes": "as predicted"}
    record = {
        "predictions": {
            "file": str(poses.path),
            "format": poses.format,
            "sha256": digest,
            "persons": len(poses),
            "left_out": dict(poses.left_out),
        },
        **_outcome(settings, scores, choices),
        "persons": len(poses),
        "persons_without_prediction": int(np.sum(matches.rows == UNMATCHED)),
        "data": {split: labels.account()},
        "dataset": settings["dataset"],
    }
    sizes = {"batch_size": settings["eval_batch_size"], "workers": settings["workers"]}
    data = PoseDataModule(source=source, input_size=PICTURE_SIZE, **sizes)
    # Not beside the file, whose folder may be read-only.
    parent = Path(settings["run_root"]) / "predictions"
    defining = [digest, split, settings["dataset"]]
    folder = result_folder(settings["out"], parent, f"{poses.path.stem}_{split}", defining)
    report(record, folder, data, matches, split)
    return float(record["score"])


def _scores(source: PoseDataset, split: str, predictions: Predictions) -> dict[str, float]:
    """The benchmark's own scores; a person of whom the file has nothing counts as wrong."""
    persons = source.persons(split)
    # Of what all metrics together ask for each takes what it knows.
    metric = MetricCollection([source.metric(split)])
    metric.update(
        predicted=torch.from_numpy(predictions.locations),
        scores=torch.from_numpy(predictions.scores),
        joints_image=torch.from_numpy(persons.joints),
        labelled=torch.from_numpy(persons.visibility > UNLABELLED),
        reference_length=torch.from_numpy(persons.reference_length),
        sample_index=torch.arange(len(persons)),
    )
    scores = {name: float(value) for name, value in metric.compute().items()}
    return {**scores, **source.extra_scores(split, predictions)}

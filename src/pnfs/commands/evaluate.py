"""`pnfs evaluate`: score a trained network, or a file of predicted poses."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics import MetricCollection

from pnfs.commands import scoring
from pnfs.commands.building import build_module, build_network, build_source, data_for, read_trained
from pnfs.commands.configuration import UsageError, console
from pnfs.data.datasets.base import PoseDataset, with_every_split
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import UNLABELLED, UNMATCHED, Predictions, listed
from pnfs.inference.predictor import chosen_runtime, load_predictor, runtime_of
from pnfs.runs.state import LAST_CHECKPOINT, provenance
from pnfs.training import checkpoints
from pnfs.training.module import PoseModule

PICTURE_SIZE = (256, 256)
"""(height, width) of the crops in pictures of a file's poses, px; nothing else depends on it."""


def run(settings: dict[str, Any]) -> float:
    """Scores one checkpoint, exported file, or file of predictions; nan for a split without labels."""
    scoring.require_whole_split(settings["trainer"])
    if settings["predictions"] is None:
        settings["checkpoint"] = settings["checkpoint"] or "shipped"
        return _network(settings)
    if settings["checkpoint"] is not None:
        raise UsageError(
            "evaluate scores either a network, checkpoint=…, or a file, predictions=…: both are given"
        )
    return _file(settings)


# --- a network

Scored = tuple[PoseModule, PoseDataModule, dict[str, Any], Mapping[str, str]]
"""A trained network, the crops to score it on, as it was trained on them, their dataset's configuration, and what
the network computes with."""


def _network(settings: dict[str, Any]) -> float:
    path, split = checkpoints.find_checkpoint(settings["checkpoint"]), settings["split"]
    chosen_runtime(path, settings["runtime"], settings["precision"])
    exported = path.suffix == ".onnx"
    read = _exported_file if exported else _checkpoint
    module, data, dataset, computed = read(settings, path)
    # Exported files run in this process; what the trainer says of devices is for PyTorch.
    trainer = settings["trainer"]
    if exported:
        trainer = {"_target_": trainer["_target_"], "accelerator": "cpu", "devices": 1}
    source = data.source
    console.print(f"scored: {path}\n{source.persons(split).described()}")
    scores, predictions = scoring.score_and_predict(module, data, trainer, split)
    choices = scoring.evaluation_choices(module, source, split)
    choices |= {"input_size": list(data.input_size), **computed}
    if path.name == LAST_CHECKPOINT.name:
        choices["weights"] = "last"
    record = {
        "checkpoint": str(path), "scores": scores, **provenance(trainer["accelerator"]),
        "evaluated_with": choices, "persons": len(predictions),
        "data": {split: source.persons(split).account()}, "dataset": dataset,
    }  # fmt: skip
    run = path.parent if exported else checkpoints.results_folder(path, settings["run_root"])
    name, defining = f"evaluate_{split}", [choices, dataset]
    folder = scoring.result_folder(settings["out"], run, name, defining)
    score = scoring.report(record, folder, data, source.matches(split, predictions), split, module)
    name = settings["name"] or re.sub(r"[^A-Za-z0-9._-]", "-", folder.parent.name) or "pnfs"
    console.print(f"predicted joints: {source.write_predictions(split, predictions, folder, name)}")
    return score


def _checkpoint(settings: Mapping[str, Any], path: Path) -> Scored:
    """A checkpoint with the evaluation's choices."""
    _, trained, content = read_trained(settings)
    dataset, data = data_for(settings, trained, trained["model"]["skeleton"], path)
    module = build_module(trained, data.source)
    checkpoints.load_network_state(module.network, content, path)
    module.flip_test = settings["flip_test"]
    asked = {key: settings[key] for key in ("flip_shift", "decode_method")}
    asked = {key: value for key, value in asked.items() if value is not None}
    module.codec = replace(module.codec, **asked)
    precision = settings["trainer"].get("precision")
    # In the words of the other runtimes, where they have one.
    words = "f32" if precision in (None, 32, "32", "32-true") else str(precision)
    return module, data, dataset, {"runtime": "torch", "precision": words}


def _exported_file(settings: Mapping[str, Any], path: Path) -> Scored:
    """An exported file; its dataset is named, or that of the run in whose folder it lies."""
    choices = ("runtime", "precision", "decode_method", "flip_shift")
    predictor = load_predictor(
        path,
        build=build_network,
        batch_size=settings["eval_batch_size"],
        **{key: settings[key] for key in choices},
    )
    trained: dict[str, Any] = {"dataset": {}}
    if (path.parent / "checkpoints").is_dir():
        content = checkpoints.read_checkpoint(path.parent, builds=("dataset",), trust=settings["trust"])
        trained = content[checkpoints.CONFIG_KEY]
    elif "_target_" not in settings["dataset"]:
        raise UsageError(
            f"{path} lies in no run's folder, whose dataset could be taken: add dataset=… dataset.root=…"
        )
    codec = {"unbiased": predictor.codec.unbiased}
    trained = {**trained, "input_size": predictor.input_size, "codec": codec}
    dataset, data = data_for(settings, trained, predictor.skeleton.name, path)
    module = PoseModule(
        network=predictor.network,
        metric=data.source.metric(settings["split"]),
        optimizer=torch.optim.Adam,
        codec=predictor.codec,
        flip_test=settings["flip_test"],
    )
    return module, data, dataset, runtime_of(predictor)


# --- a file of predicted poses


def _file(settings: Mapping[str, Any]) -> float:
    """Scores a file; see conf/evaluate.yaml."""
    if "_target_" not in settings["dataset"]:
        raise UsageError("predictions=… is scored on a dataset by name: add dataset=coco dataset.root=…")
    for key in ("name", "decode_method", "flip_shift", "runtime", "precision"):
        if settings[key] is not None:
            raise UsageError(f"{key} is for a network's predictions; those of a file are scored as they stand")
    split = settings["split"]
    # A detector's boxes have no part in it.
    source = with_every_split(build_source(settings["dataset"]), split).in_labelled_boxes()
    file = Path(settings["predictions"]).expanduser()
    poses = source.read_predictions(split, file)
    console.print(f"predictions: {file} ({poses.format})")
    if poses.left_out:
        console.print(f"left out of the file: {listed(poses.left_out)}")
    matches, labels = poses.matches, poses.matches.labels
    scores = poses.scores or _scores(source, split, matches.predictions)
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
    data = PoseDataModule(source=source, input_size=PICTURE_SIZE, **sizes)
    # Not beside the file, whose folder may be read-only.
    parent = Path(settings["run_root"]) / "predictions"
    defining = [digest, split, settings["dataset"]]
    folder = scoring.result_folder(settings["out"], parent, f"{file.stem}_{split}", defining)
    return scoring.report(record, folder, data, matches, split)


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
    return {name: float(value) for name, value in metric.compute().items()}

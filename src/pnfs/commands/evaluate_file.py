"""`pnfs evaluate predictions=…`: score a file of predicted poses, without a network."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torchmetrics import MetricCollection

from pnfs.commands.configuration import UsageError, build_source
from pnfs.commands.every_split import with_every_split
from pnfs.commands.report import report, result_folder
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import UNLABELLED, listed
from pnfs.data.pose_files import read_pose_file
from pnfs.data.pose_matching import PosesAsDetections, assign
from pnfs.data.predictions import UNMATCHED, Predictions
from pnfs.runs.record import provenance

PICTURE_SIZE = (256, 256)
"""(height, width) of the crops in pictures, px; nothing else depends on it."""

_OF_A_NETWORK = ("decode_method", "flip_shift", "runtime", "precision")

console = Console()


def run(settings: Mapping[str, Any]) -> float:
    """Scores a file; see conf/evaluate.yaml.

    Raises:
        UsageError: No dataset is named, or a key is given that only a network has.
        DataError: The file cannot be scored on the dataset.
    """
    source, split = _source(settings), settings["split"]
    truth = source.annotations(split) if isinstance(source, COCO) else None
    poses = read_pose_file(settings["predictions"], source.skeleton, truth)
    console.print(f"predictions: {poses.path} ({poses.format})", soft_wrap=True, highlight=False)
    if poses.left_out:
        console.print(f"left out of the file: {listed(poses.left_out)}", highlight=False)
    if isinstance(source, COCO):
        labels = source.labelled(split).persons
        source = PosesAsDetections(source, split, poses)
        scores, matches = source.scores(split), source.matches(split, source.predictions)
    else:
        labels = source.persons(split)
        matches = assign(poses, labels)
        scores = _scores(source, split, matches.predictions)
    console.print(labels.described(), soft_wrap=True, highlight=False)
    digest = hashlib.sha256(poses.path.read_bytes()).hexdigest()
    record = {
        "predictions": {
            "file": str(poses.path),
            "format": poses.format,
            "sha256": digest,
            "persons": len(poses),
            "left_out": dict(poses.left_out),
        },
        "kind": "evaluate",
        "primary": next(iter(scores)),
        "score": next(iter(scores.values())),
        "scores": scores,
        "evaluated_with": {"split": split, "predictions": poses.format, "boxes": "as predicted"},
        "persons": len(poses),
        "persons_without_prediction": int(np.sum(matches.rows == UNMATCHED)),
        "data": {split: labels.account()},
        **provenance(),
        "dataset": settings["dataset"],
    }
    data = PoseDataModule(
        source=source,
        input_size=PICTURE_SIZE,
        batch_size=settings["eval_batch_size"],
        workers=settings["workers"],
    )
    # Not beside the file, whose folder may be read-only.
    folder = result_folder(
        settings["out"],
        Path(settings["run_root"]) / "predictions",
        f"{poses.path.stem}_{split}",
        [digest, split, settings["dataset"]],
    )
    report(record, folder, data, matches, settings)
    return float(record["score"])


def _source(settings: Mapping[str, Any]) -> PoseDataset:
    if "_target_" not in settings["dataset"]:
        raise UsageError(
            "predictions=… is scored on a dataset by name: add dataset=coco dataset.root=…"
        )
    given = [f"eval.{key}" for key, value in settings["eval"].items() if value is not None]
    given += [key for key in _OF_A_NETWORK if settings[key] is not None]
    if given:
        raise UsageError(
            f"{given[0]} is for a network's predictions; those of a file are scored as they stand"
        )
    return with_every_split(build_source(settings["dataset"]), settings["split"])


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

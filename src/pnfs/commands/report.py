"""What scores leave behind: tables, pictures, a record, and what loggers show."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image
from rich.console import Console

from pnfs.commands.scoring import described, score_table
from pnfs.data.crops import CropDataset
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.geometry import apply, invert
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import UNLABELLED
from pnfs.data.predictions import Matches, Predictions, one_to_one
from pnfs.evaluation.person_metric import Criterion, PersonMetric
from pnfs.inference.predictor import ScoredPredictor
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import describe_architecture, to_json
from pnfs.runs.record import RESULT, write_result
from pnfs.training.module import PoseModule
from pnfs.viz.curves import plot_curves, plot_joint_rates
from pnfs.viz.fabrics import draw_fabrics
from pnfs.viz.sheets import pose_sheet
from pnfs.viz.style import save_image

console = Console()

SHEET_SIZE = 32
"""Persons on a contact sheet."""


def report(
    record: dict[str, Any],
    folder: Path,
    data: PoseDataModule,
    matches: Matches,
    split: str,
    module: PoseModule | ScoredPredictor | None = None,
) -> None:
    """Prints, writes into `folder` and draws what an evaluation found.

    `record` is what `result.json` is to hold; rates by joint are added. `module`, None for a file of predictions,
    predicted the persons of `data`, which `matches` brings together with the labels.
    """
    source, errors = data.source, matches.errors
    metric = source.metric(split)
    criterion = metric.criterion() if isinstance(metric, PersonMetric) else None
    criterion = criterion if errors.scored.any() else None
    if criterion is not None:
        record["by_joint"] = errors.record(criterion)
    unsized = int((errors.visibility.any(-1) & ~errors.scored.any(-1)).sum())
    if unsized:
        record["persons_without_size"] = unsized
    # Scores are safe before anything else is written that may fail.
    write_result(folder, record)
    name = source.persons(split).name
    if math.isnan(record["score"]):
        lack = "no labels" if not errors.visibility.any() else "no sizes to measure errors by"
        console.print(f"[bold]{name} has {lack}: nothing is scored.[/]")
    else:
        title = f"{name}, {len(matches.predictions):,} persons"
        console.print(score_table(title, {"": record["scores"]}))
        choices = described(record["evaluated_with"])
        console.print(choices, style="dim", highlight=False, soft_wrap=True)
        if unsized:
            console.print(
                f"{unsized:,} persons have no size to measure errors by: they are not scored"
            )
    pictures = write_pictures(module, data, folder, split, matches.predictions)
    if criterion is not None:
        pictures |= _score_pictures(data, folder, split, matches, criterion)
    for what, file in {**pictures, "record": folder / RESULT}.items():
        console.print(f"{what}: {file}", soft_wrap=True)


def result_folder(out: str | None, parent: Path, name: str, defining: Any) -> Path:
    """`out`, or a folder of its own below `parent` for each thing that is asked for."""
    if out:
        return Path(out).expanduser()
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:8]
    return parent / f"{name}_{digest}"


def log_media(loggers: Sequence[Logger], pictures: Mapping[str, Path], step: int = 0) -> None:
    """Hands pictures, title -> file, to the loggers that show any: Weights & Biases and TensorBoard.

    Files that are no PNG are passed over.
    """
    shown = {what: path for what, path in pictures.items() if path.suffix == ".png"}
    for logger in loggers:
        for what, path in shown.items():
            if isinstance(logger, WandbLogger):
                logger.log_image(key=f"media/{what}", images=[str(path)])
            elif isinstance(logger, TensorBoardLogger):
                pixels = np.asarray(Image.open(path).convert("RGB"))
                logger.experiment.add_image(f"media/{what}", pixels, step, dataformats="HWC")
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()


def write_pictures(
    module: PoseModule | ScoredPredictor | None,
    data: PoseDataModule,
    folder: Path,
    split: str,
    predictions: Predictions,
) -> dict[str, Path]:
    """Contact sheet of predictions, curves, diagram of the fabrics and the data behind it; title -> file."""
    written: dict[str, Path] = {}
    rows = shown_rows(data.source, split, predictions)
    if len(rows):
        # Each person in the box that was predicted in, labelled or detected.
        matches = one_to_one(data.source.persons(split), predictions)
        written["predictions"] = folder / f"predictions_{split}.png"
        captions = [str(matches.labels.ids[row]) for row in rows]
        sheet = sheet_of(data.dataset(split), matches, rows, captions)
        save_image(written["predictions"], sheet)
    # Baselines have no architecture that was searched, and exported files do not show theirs.
    if isinstance(module, PoseModule) and isinstance(module.network, PoseFabricNetwork):
        architecture = describe_architecture(module.network)
        written["architecture data"] = folder / "architecture.json"
        written["architecture data"].write_text(to_json(architecture))
        written["architecture"] = folder / "architecture.png"
        draw_fabrics(architecture, written["architecture"])
    if (folder / "metrics.csv").is_file():
        written["curves"] = folder / "curves.png"
        plot_curves(folder / "metrics.csv", written["curves"])
    return written


def shown_rows(source: PoseDataset, split: str, predictions: Predictions) -> np.ndarray:
    """Up to SHEET_SIZE persons for a contact sheet, the same in every run.

    Of detected boxes the best, best first: most of a detector's boxes hold nobody. Of others some
    spread over the split.
    """
    there = np.flatnonzero(np.isfinite(predictions.locations).all((1, 2)))
    box_scores = source.box_scores(split)
    if box_scores is not None:
        return there[np.argsort(-box_scores[there], kind="stable")][:SHEET_SIZE]
    return there[np.unique(np.linspace(0, len(there) - 1, SHEET_SIZE).astype(int))]


def _score_pictures(
    data: PoseDataModule, folder: Path, split: str, matches: Matches, criterion: Criterion
) -> dict[str, Path]:
    """Worst and best persons, and rates by joint."""
    written = {"joints": folder / f"joints_{split}.png"}
    plot_joint_rates(written["joints"], matches.errors, criterion, matches.labels.name)
    rows, means = matches.errors.by_error()
    for name, chosen in (("worst", slice(-1, -SHEET_SIZE - 1, -1)), ("best", slice(SHEET_SIZE))):
        pairs = zip(matches.labels.ids[rows[chosen]], means[chosen], strict=True)
        captions = [f"{id_}  error {error:.2f}" for id_, error in pairs]
        if captions:
            written[name] = folder / f"{name}_{split}.png"
            sheet = sheet_of(data.dataset(split), matches, rows[chosen], captions)
            save_image(written[name], sheet)
    return written


def sheet_of(
    crops: CropDataset, matches: Matches, rows: np.ndarray, captions: Sequence[str]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """A contact sheet of labelled persons, `rows` of the matches, who have a prediction."""
    labels, predictions = matches.labels, matches.predictions
    matched = matches.rows[rows]
    samples = [crops[int(row)] for row in matched]
    to_crop = [invert(np.asarray(sample["to_image"], np.float64)) for sample in samples]

    def placed(joints: np.ndarray) -> np.ndarray:
        pairs = zip(to_crop, joints.astype(np.float64), strict=True)
        return np.stack([apply(matrix, each) for matrix, each in pairs])

    return pose_sheet(
        [np.asarray(sample["image"]) for sample in samples],
        placed(predictions.locations[matched]),
        skeleton=labels.skeleton,
        scores=predictions.scores[matched],
        target=placed(labels.joints[rows]),
        labelled=labels.visibility[rows] > UNLABELLED,
        captions=captions,
    )

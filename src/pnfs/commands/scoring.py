"""What `train` and `evaluate` share: scores and predictions of a split, and pictures to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image
from rich.console import Console
from torchmetrics import MetricCollection

from pnfs.commands.configuration import UsageError
from pnfs.data.dataset import CropDataset
from pnfs.data.geometry import apply, invert
from pnfs.data.module import PoseDataModule, Source
from pnfs.data.persons import OCCLUDED, UNLABELLED
from pnfs.data.predictions import (
    GROUND_TRUTH_BOXES,
    Benchmark,
    Detections,
    Matches,
    Predictions,
    one_to_one,
    write_json,
)
from pnfs.evaluation.person_metric import Columns, Criterion, PersonMetric
from pnfs.inference.scored import ScoredPredictor
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import describe_architecture, to_json
from pnfs.runs.state import LAST_CHECKPOINT
from pnfs.training.callbacks import TerminalProgressBar
from pnfs.training.module import PoseModule
from pnfs.viz.curves import plot_curves
from pnfs.viz.fabrics import draw_fabrics
from pnfs.viz.poses import LowScored
from pnfs.viz.scores import (
    plot_error_curve,
    plot_error_histogram,
    plot_joint_rates,
    plot_visibility_rates,
)
from pnfs.viz.sheets import pose_sheet
from pnfs.viz.style import save_image

console = Console()

# Keys of the trainer that say where and how a score is computed.
_COMPUTING = (
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "precision", "benchmark", "deterministic",
    "inference_mode", "sync_batchnorm", "plugins", "enable_model_summary", "enable_progress_bar",
)  # fmt: skip

SHEET_SIZE = 32
"""Persons on a contact sheet."""


class PredictionCollector(PersonMetric):
    """Gathers predicted joints from all processes; has no score.

    Attributes:
        predictions: Those of the last `compute`, each sample once, in the samples' order.
    """

    predictions: Predictions

    def score(self, persons: Columns) -> dict[str, float]:
        locations, scores = (persons[name].astype(np.float32) for name in self.columns)
        self.predictions = Predictions(locations, scores)
        return {}


def score(
    module: PoseModule, data: PoseDataModule, trainer: Mapping[str, Any], split: str
) -> dict[str, float]:
    """Scores of a split, name -> value, the one that counts first."""
    return score_and_predict(module, data, trainer, split)[0]


def score_and_predict(
    module: PoseModule | ScoredPredictor,
    data: PoseDataModule,
    trainer: Mapping[str, Any],
    split: str,
) -> tuple[dict[str, float], Predictions]:
    """Scores of a split, name -> value, the one that counts first, and what was predicted.

    A split without labels has scores that are nan. What limits the trainer's training, or its validation while
    it trains, does not limit this: a score is of the whole split.
    """
    tester: L.Trainer = instantiate(
        {key: value for key, value in trainer.items() if key in _COMPUTING},
        logger=False,
        enable_checkpointing=False,
        callbacks=[TerminalProgressBar()] if trainer.get("enable_progress_bar", True) else [],
        use_distributed_sampler=False,
    )
    collector = PredictionCollector(len(data.source.skeleton))
    kept = module.metric
    # The module's own metric is that of its validation split.
    module.metric = MetricCollection([data.source.metric(split), collector], compute_groups=False)
    try:
        results = tester.validate(module, data.eval_dataloader(split), verbose=False)[0]
    finally:
        module.metric = kept
    prefix = "val/"
    left_out = ("loss", "score")
    scores = {
        name.removeprefix(prefix): float(value)
        for name, value in results.items()
        if name.removeprefix(prefix) not in left_out
    }
    return scores, collector.predictions


def require_whole_split(trainer: Mapping[str, Any]) -> None:
    """Refuses keys that would score a part of the split, and could not be told from a score of all.

    Raises:
        UsageError: Names the key.
    """
    for key, value in trainer.items():
        limits = key.startswith("limit_") or key in ("overfit_batches", "fast_dev_run")
        if limits and value is not None:
            raise UsageError(
                f"trainer.{key}={value}: a score is of the whole split; leave this key out"
            )


def warn_of_last(weights: Path) -> None:
    """Says so where a run's last weights stand in for its best, of which there are none."""
    if weights.name == LAST_CHECKPOINT.name:
        console.print(
            f"[bold yellow]{weights.parent} holds no best.ckpt: the weights of the last epoch (last.ckpt) are "
            "used in its place[/]",
            soft_wrap=True,
            highlight=False,
        )


def evaluation_choices(
    module: PoseModule | ScoredPredictor, source: Source, split: str
) -> dict[str, Any]:
    """Everything besides weights and data that a score depends on, as tables and records name it."""
    benchmark = source.evaluation_choices(split) if isinstance(source, Benchmark) else {}
    choices: dict[str, Any] = {"split": split, "flip_test": module.flip_test}
    if module.flip_test:
        choices["flip_shift"] = module.codec.flip_shift
    return choices | {
        "decode_method": module.codec.decode_method,
        **(benchmark or GROUND_TRUTH_BOXES),
    }


def matches_of(source: Source, split: str, predictions: Predictions) -> Matches:
    """Which prediction is compared with which labelled person."""
    if isinstance(source, Benchmark):
        return source.matches(split, predictions)
    return one_to_one(source.persons(split), predictions)


def write_predictions(
    source: Source, split: str, predictions: Predictions, folder: Path, name: str
) -> Path:
    """Writes predictions in the benchmark's own format, or else as JSON."""
    if isinstance(source, Benchmark):
        return source.write_predictions(split, predictions, folder, name)
    path = folder / f"predictions_{split}.json"
    return write_json(path, source.persons(split), predictions)


def write_pictures(
    module: PoseModule | ScoredPredictor,
    data: PoseDataModule,
    folder: Path,
    split: str,
    predictions: Predictions,
) -> dict[str, Path]:
    """Contact sheet of predictions, curves, diagram of the fabrics and the data behind it."""
    written = write_sheet(data, folder, split, predictions)
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


def write_sheet(
    data: PoseDataModule, folder: Path, split: str, predictions: Predictions
) -> dict[str, Path]:
    """Contact sheet of some predicted persons, each in its crop; title -> file."""
    rows = shown_rows(data.source, split, predictions)
    if not len(rows):
        return {}
    # Each person in the box that was predicted in, labelled or detected.
    matches = one_to_one(data.source.persons(split), predictions)
    path = folder / f"predictions_{split}.png"
    captions = [str(matches.labels.ids[row]) for row in rows]
    save_image(path, contact_sheet(data.dataset(split), matches, rows, captions))
    return {"predictions": path}


def shown_rows(source: Source, split: str, predictions: Predictions) -> np.ndarray:
    """Up to SHEET_SIZE persons for a contact sheet, the same in every run.

    Of detected boxes the best, best first: most of a detector's boxes hold nobody. Of others some
    spread over the split.
    """
    there = np.flatnonzero(np.isfinite(predictions.locations).all((1, 2)))
    box_scores = source.box_scores(split) if isinstance(source, Detections) else None
    if box_scores is not None:
        return there[np.argsort(-box_scores[there], kind="stable")][:SHEET_SIZE]
    return there[np.unique(np.linspace(0, len(there) - 1, SHEET_SIZE).astype(int))]


def write_score_pictures(
    data: PoseDataModule, folder: Path, split: str, matches: Matches, criterion: Criterion
) -> dict[str, Path]:
    """Worst and best persons, rates by joint and visibility, and errors over thresholds."""
    title, errors = matches.labels.name, matches.errors
    rows, means = errors.by_error()
    written: dict[str, Path] = {}
    if len(rows):
        crops = data.dataset(split)
        for what, order in (("worst", slice(None, None, -1)), ("best", slice(None))):
            written[what] = folder / f"{what}_{split}.png"
            chosen, ids = rows[order][:SHEET_SIZE], matches.labels.ids[rows][order]
            captions = [f"{id_}  error {e:.2f}" for id_, e in zip(ids, means[order], strict=True)]
            save_image(written[what], contact_sheet(crops, matches, chosen, captions[:SHEET_SIZE]))
        written["errors"] = folder / f"errors_{split}.png"
        plot_error_histogram(written["errors"], means, criterion.reference, title)
    written["joints"] = folder / f"joints_{split}.png"
    plot_joint_rates(written["joints"], errors, criterion, title)
    # Most datasets do not tell occluded from visible joints.
    if (errors.visibility == OCCLUDED).any():
        written["visibility"] = folder / f"visibility_{split}.png"
        plot_visibility_rates(written["visibility"], errors, criterion, title)
    written["curve"] = folder / f"curve_{split}.png"
    plot_error_curve(written["curve"], errors, criterion, title)
    return written


def contact_sheet(
    crops: CropDataset, matches: Matches, rows: np.ndarray, captions: Sequence[str]
) -> np.ndarray:
    """Contact sheet of labelled persons who have a prediction, in the order given.

    Args:
        crops: The crops of the predicted persons.
        matches: All labelled persons and their predictions.
        rows: Rows of the labelled persons.
        captions: One for each of them.
    """
    labels, predictions = matches.labels, matches.predictions
    pictures, predicted, targets = [], [], []
    matched = matches.rows[rows]
    for label, row in zip(rows, matched, strict=True):
        sample = crops[int(row)]
        to_crop = invert(np.asarray(sample["to_image"], np.float64))
        pictures.append(np.asarray(sample["image"]))
        predicted.append(apply(to_crop, predictions.locations[row].astype(np.float64)))
        targets.append(apply(to_crop, labels.joints[label].astype(np.float64)))
    return pose_sheet(
        pictures,
        np.stack(predicted),
        skeleton=labels.skeleton,
        scores=predictions.scores[matched],
        target=np.stack(targets),
        labelled=labels.visibility[rows] > UNLABELLED,
        captions=captions,
        low_scored=_low_scored(predictions),
    )


def _low_scored(predictions: Predictions) -> LowScored:
    """How uncertain joints are drawn: not at all where labels are shown, whose 0 means "none"."""
    return "omit" if np.isin(predictions.scores, (0, 1)).all() else "hollow"


def log_media(loggers: Sequence[Logger], pictures: Mapping[str, Path], step: int = 0) -> None:
    """Hands pictures to the loggers that show any: Weights & Biases and TensorBoard.

    Args:
        loggers: Others are passed over.
        pictures: Title -> file; files that are no PNG are passed over.
        step: Where they stand in the run.
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

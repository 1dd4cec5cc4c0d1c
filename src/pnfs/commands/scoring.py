"""Scores and predictions of a split, for `train` and `evaluate`; how they are printed and drawn."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from jaxtyping import UInt8
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch.utils.data import default_collate
from torchmetrics import MetricCollection

from pnfs.commands.configuration import UsageError
from pnfs.data.crops import CropDataset
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.geometry import apply, invert
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import UNLABELLED, Matches, Predictions, one_to_one
from pnfs.evaluation.coco_eval import STATISTICS
from pnfs.evaluation.person_metric import Columns, PersonMetric
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import describe_architecture, to_json
from pnfs.runs.state import STATE, read_result
from pnfs.training.callbacks import TerminalProgressBar
from pnfs.training.module import PoseModule
from pnfs.viz.curves import plot_curves
from pnfs.viz.fabrics import draw_fabrics
from pnfs.viz.poses import pose_sheet
from pnfs.viz.style import save_image

# Keys of the trainer that say where and how a score is computed.
_COMPUTING = (
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "precision", "benchmark", "deterministic",
    "inference_mode", "sync_batchnorm", "plugins", "enable_model_summary", "enable_progress_bar",
)  # fmt: skip
SHEET_SIZE = 32
"""Persons on a contact sheet."""


class PredictionCollector(PersonMetric):
    """Gathers predicted joints from all processes; has no score."""

    predictions: Predictions
    """Those of the last `compute`, each sample once, in the samples' order."""

    def score(self, persons: Columns) -> dict[str, float]:
        locations, scores = (persons[name].astype(np.float32) for name in self.columns)
        self.predictions = Predictions(locations, scores)
        return {}


def score_and_predict(
    module: PoseModule, data: PoseDataModule, trainer: Mapping[str, Any], split: str
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
    collector = PredictionCollector(len(data.dataset.skeleton))
    kept = module.metric
    # The module's own metric is that of its validation split.
    module.metric = MetricCollection([data.dataset.metric(split), collector], compute_groups=False)
    try:
        results = tester.validate(module, data.eval_dataloader(split), verbose=False)[0]
    finally:
        module.metric = kept
    named = {name.removeprefix("val/"): float(value) for name, value in results.items()}
    scores = {name: value for name, value in named.items() if name not in ("loss", "score")}
    return scores, collector.predictions


def evaluation_choices(module: PoseModule, dataset: PoseDataset, split: str) -> dict[str, Any]:
    """Everything besides weights and data that a score depends on, as tables and records name it."""
    shift = {"flip_shift": module.codec.flip_shift} if module.flip_test else {}
    choices = {"split": split, "flip_test": module.flip_test, **shift, "decode_method": module.codec.decode_method}
    return {**choices, **dataset.evaluation_choices(split)}


def result_folder(out: str | None, parent: Path, name: str, defining: Any) -> Path:
    """`out`, or a folder of its own below `parent` for each thing that is asked for."""
    if out:
        return Path(out).expanduser()
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:8]
    # A glob's name may not be a file's.
    return parent / (re.sub(r"[^\w.-]", "_", name) + f"_{digest}")


def out_folder(out: str | Path, kind: str | None) -> Path:
    """The folder that `out` names; a UsageError where a trained run or another command's record is in it.

    `kind` is that of the command's own records, whose place later ones take; None: it writes none.
    """
    folder = Path(out).expanduser()
    record = read_result(folder) or {"kind": kind}
    held = "train" if (folder / STATE).exists() else record.get("kind", "train")
    if held != kind:
        what = "a trained run" if held == "train" else f"what `pnfs {held}` wrote"
        raise UsageError(f"out: {folder} is {what}, which is not overwritten; name another folder")
    return folder


def score_table(title: str, columns: Mapping[str, Mapping[str, float]]) -> str:
    """Scores as benchmarks print them: one row a score and set of scores, one column a group of joints.

    `columns` is name of a set ("trained", or "") -> score name ("PCKh@0.5/head", ...) -> value: PCK in percent,
    COCO's average precision and recall as fractions.
    """
    cells: dict[str, dict[str, str]] = {}
    for which, scores in columns.items():
        for name, value in scores.items():
            score, _, group = name.partition("/")
            known, places = value is not None and not math.isnan(value), 3 if score in STATISTICS else 1
            row = cells.setdefault(f"{score} {which}".strip(), {})
            row[group or "all"] = f"{value:.{places}f}" if known else "–"
    note = "PCKh@0.11 is what public code prints as @0.1.\n" if "PCKh@0.11" in str(cells) else ""
    # All groups of joints fit a terminal of 80 columns.
    return f"{title}\n{pd.DataFrame(cells).T.fillna('').to_string()}\n{note}"


def described(choices: Mapping[str, Any]) -> str:
    """Choices in one line: "split: val · flip test: yes · ..."."""
    words = {True: "yes", False: "no"}
    return " · ".join(
        f"{name.replace('_', ' ')}: {words[value] if isinstance(value, bool) else value}"
        for name, value in choices.items()
    )


# --- pictures


def write_pictures(
    module: PoseModule | None,
    data: PoseDataModule,
    folder: Path,
    split: str,
    predictions: Predictions,
    matches: Matches | None = None,
) -> dict[str, Path]:
    """Contact sheets of predictions, with `matches` also of the worst and the best persons, curves, diagram of the
    fabrics and the data behind it; title -> file."""
    written: dict[str, Path] = {}
    # The best of detected boxes, since most hold nobody; of labelled ones some, spread over the split.
    rows = np.flatnonzero(np.isfinite(predictions.locations).all((1, 2)))
    box_scores = data.dataset.box_scores(split)
    if box_scores is not None:
        rows = rows[np.argsort(-box_scores[rows], kind="stable")][:SHEET_SIZE]
    elif len(rows):
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, SHEET_SIZE).astype(int))]
    # Each person in the box that was predicted in, labelled or detected.
    own = one_to_one(data.dataset.persons(split), predictions)
    sheets = {"predictions": (own, rows, [str(own.labels.ids[row]) for row in rows])}
    if matches is not None:
        found, means = matches.errors.by_error()
        texts = [f"{matches.labels.ids[row]}  error {mean:.2f}" for row, mean in zip(found, means, strict=True)]
        for name, chosen in (("worst", slice(-1, -SHEET_SIZE - 1, -1)), ("best", slice(SHEET_SIZE))):
            sheets[name] = (matches, found[chosen], texts[chosen])
    for name, (shown, rows, captions) in sheets.items():
        if len(rows):
            written[name] = folder / f"{name}_{split}.png"
            save_image(written[name], sheet_of(data.crop_dataset(split), shown, rows, captions))
    # Baselines have no architecture that was searched.
    if module is not None and isinstance(module.network, PoseFabricNetwork):
        architecture = describe_architecture(module.network)
        written |= {"architecture data": folder / "architecture.json", "architecture": folder / "architecture.png"}
        written["architecture data"].write_text(to_json(architecture))
        draw_fabrics(architecture, written["architecture"])
    if (folder / "metrics.csv").is_file():
        written["curves"] = folder / "curves.png"
        plot_curves(folder / "metrics.csv", written["curves"])
    return written


def sheet_of(
    crops: CropDataset, matches: Matches, rows: np.ndarray, captions: Sequence[str]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """A contact sheet of labelled persons, `rows` of the matches, who have a prediction."""
    labels, predictions, matched = matches.labels, matches.predictions, matches.rows[rows]
    samples = [crops[int(row)] for row in matched]
    to_crop = [invert(np.asarray(sample["to_image"], np.float64)) for sample in samples]
    target = np.where(labels.visibility[rows, :, None] > UNLABELLED, labels.joints[rows], np.nan)
    placed = (
        np.stack([apply(matrix, each) for matrix, each in zip(to_crop, joints.astype(np.float64), strict=True)])
        for joints in (predictions.locations[matched], target)
    )
    return pose_sheet(
        [np.asarray(sample["image"]) for sample in samples],
        *placed,
        skeleton=labels.skeleton,
        scores=predictions.scores[matched],
        captions=captions,
    )


def log_media(loggers: Sequence[Logger], pictures: Mapping[str, Path], step: int = 0) -> None:
    """Hands those of the pictures, title -> file, that are PNG to Weights & Biases and TensorBoard."""
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


class ValidationPictures(L.Callback):
    """Draws the predictions of `persons` validation persons, the same ones every `every` epochs.

    TensorBoard and Weights & Biases show the sheets, `folder`/epoch_0005.png, ...; the latter gets a table too, a
    row a person: crop with skeleton, id, mean error in the metric's unit.
    """

    def __init__(self, folder: Path | str, every: int = 5, persons: int = 16) -> None:
        super().__init__()
        self.folder, self.every, self.persons = Path(folder), every, persons

    # After the last batch and not at the end: there averaged weights (`EMA`) have made way for the others again.
    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        epoch, is_last = trainer.current_epoch + 1, batch_idx + 1 == trainer.num_val_batches[0]
        due = trainer.state.fn == "fit" and not trainer.sanity_checking and epoch % self.every == 0
        if not (due and is_last and trainer.is_global_zero):
            return
        assert isinstance(pl_module, PoseModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        crops, persons = data.crop_dataset("val"), data.dataset.persons("val")
        rows = np.unique(np.linspace(0, len(persons) - 1, self.persons).astype(int))
        batch = move_data_to_device(default_collate([crops[int(row)] for row in rows]), pl_module.device)
        with torch.no_grad():
            locations, scores = pl_module.locate(pl_module.network(batch["image"]), batch)
        shape = (len(persons), len(persons.skeleton))
        predictions = Predictions(np.full((*shape, 2), np.nan, np.float32), np.zeros(shape, np.float32))
        predictions.locations[rows] = locations.float().cpu().numpy()
        predictions.scores[rows] = scores.float().cpu().numpy()
        matches = one_to_one(persons, predictions)
        ids = [str(persons.ids[row]) for row in rows]
        path = self.folder / f"epoch_{epoch:04d}.png"
        save_image(path, sheet_of(crops, matches, rows, ids))
        log_media(trainer.loggers, {"predictions while training": path}, epoch)
        errors = dict(zip(*map(np.ndarray.tolist, matches.errors.by_error()), strict=True))
        for logger in (each for each in trainer.loggers if isinstance(each, WandbLogger)):
            import wandb  # An extra, not always installed.

            sheets = [wandb.Image(sheet_of(crops, matches, rows[[n]], [name])) for n, name in enumerate(ids)]
            lines = [[*row, epoch] for row in zip(sheets, ids, map(errors.get, rows), strict=True)]
            logger.log_table("validation persons", columns=["picture", "id", "error", "epoch"], data=lines)

"""The scores and predictions of a split, for `train`, `evaluate` and `derive`, and what they leave behind."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
from hydra.utils import instantiate
from torchmetrics import MetricCollection

from pnfs.commands.configuration import UsageError, console
from pnfs.commands.pictures import write_pictures
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import Matches, Predictions
from pnfs.evaluation.coco_eval import STATISTICS
from pnfs.evaluation.person_metric import Columns, PersonMetric
from pnfs.runs.state import RESULT, write_result
from pnfs.training.callbacks import TerminalProgressBar
from pnfs.training.module import PoseModule

# Keys of the trainer that say where and how a score is computed.
_COMPUTING = (
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "precision", "benchmark", "deterministic",
    "inference_mode", "sync_batchnorm", "plugins", "enable_model_summary", "enable_progress_bar",
)  # fmt: skip


class PredictionCollector(PersonMetric):
    """Gathers predicted joints from all processes; has no score."""

    predictions: Predictions
    """Those of the last `compute`, each sample once, in the samples' order."""

    def score(self, persons: Columns) -> dict[str, float]:
        locations, scores = (persons[name].astype(np.float32) for name in self.columns)
        self.predictions = Predictions(locations, scores)
        return {}


def score_and_predict(
    module: PoseModule,
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
    named = {name.removeprefix("val/"): float(value) for name, value in results.items()}
    scores = {name: value for name, value in named.items() if name not in ("loss", "score")}
    return scores, collector.predictions


def require_whole_split(trainer: Mapping[str, Any]) -> None:
    """Refuses keys that would score a part of the split, and could not be told from a score of all."""
    for key, value in trainer.items():
        limits = key.startswith("limit_") or key in ("overfit_batches", "fast_dev_run")
        if limits and value is not None:
            raise UsageError(f"trainer.{key}={value}: a score is of the whole split; leave this key out")


def evaluation_choices(module: PoseModule, source: PoseDataset, split: str) -> dict[str, Any]:
    """Everything besides weights and data that a score depends on, as tables and records name it."""
    shift = {"flip_shift": module.codec.flip_shift} if module.flip_test else {}
    choices = {"split": split, "flip_test": module.flip_test, **shift}
    choices["decode_method"] = module.codec.decode_method
    return {**choices, **source.evaluation_choices(split)}


# --- what is printed and kept


def report(
    record: dict[str, Any],
    folder: Path,
    data: PoseDataModule,
    matches: Matches,
    split: str,
    module: PoseModule | None = None,
) -> float:
    """Prints, writes into `folder` and draws what an evaluation found; returns the score that counts, the first.

    `record` is what `result.json` is to hold; rates by joint are added. `module`, None for a file of predictions,
    predicted the persons of `data`, which `matches` brings together with the labels.
    """
    primary, score = next(iter(record["scores"].items()))
    record |= {"kind": "evaluate", "primary": primary, "score": score}
    source, errors = data.source, matches.errors
    metric, name = source.metric(split), source.persons(split).name
    criterion = metric.criterion() if isinstance(metric, PersonMetric) else None
    criterion = criterion if errors.scored.any() else None
    if criterion is not None:
        record["by_joint"] = errors.record(criterion)
    unsized = int((errors.visibility.any(-1) & ~errors.scored.any(-1)).sum())
    if unsized:
        record["persons_without_size"] = unsized
    # Scores are safe before anything else is written that may fail.
    write_result(folder, record)
    if math.isnan(score):
        lack = "no labels" if not errors.visibility.any() else "no sizes to measure errors by"
        console.print(f"{name} has {lack}: nothing is scored.", style="bold")
    else:
        title = f"{name}, {len(matches.predictions):,} persons"
        console.print(score_table(title, {"": record["scores"]}))
        console.print(described(record["evaluated_with"]), style="dim")
        if unsized:
            console.print(f"{unsized:,} persons have no size to measure errors by: they are not scored")
    pictures = write_pictures(module, data, folder, split, matches.predictions, matches)
    for what, file in {**pictures, "record": folder / RESULT}.items():
        console.print(f"{what}: {file}")
    return float(score)


def result_folder(out: str | None, parent: Path, name: str, defining: Any) -> Path:
    """`out`, or a folder of its own below `parent` for each thing that is asked for."""
    if out:
        return Path(out).expanduser()
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:8]
    return parent / f"{name}_{digest}"


def score_table(title: str, columns: Mapping[str, Mapping[str, float]]) -> str:
    """Scores as benchmarks print them: one row a score and set of scores, one column a group of joints.

    `columns` is name of a set ("trained", or "") -> score name ("PCKh@0.5/head", ...) -> value: PCK in percent,
    COCO's average precision and recall as fractions.
    """
    cells: dict[str, dict[str, str]] = {}
    for name in dict.fromkeys(name for scores in columns.values() for name in scores):
        score, _, group = name.partition("/")
        for which, scores in columns.items():
            row = cells.setdefault(f"{score} {which}".strip(), {})
            row[group or "all"] = _number(scores[name], score) if name in scores else ""
    note = "PCKh@0.11 is what public code prints as @0.1.\n" if "PCKh@0.11" in str(cells) else ""
    # All groups of joints fit a terminal of 80 columns.
    return f"{title}\n{pd.DataFrame(cells).T.fillna('').to_string()}\n{note}"


def _number(value: float | None, score: str) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}" if score in STATISTICS else f"{value:.1f}"


def described(choices: Mapping[str, Any]) -> str:
    """Choices in one line: "split: val · flip test: yes · ..."."""
    words = {True: "yes", False: "no"}
    return " · ".join(
        f"{name.replace('_', ' ')}: {words[value] if isinstance(value, bool) else value}"
        for name, value in choices.items()
    )

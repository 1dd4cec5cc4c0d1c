"""What `train`, `evaluate` and `derive` share: the scores and predictions of a split."""

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
from hydra.utils import instantiate
from rich.table import Table
from torchmetrics import MetricCollection

from pnfs.commands.configuration import UsageError
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.module import PoseDataModule
from pnfs.data.predictions import Predictions
from pnfs.evaluation.coco_eval import STATISTICS
from pnfs.evaluation.person_metric import Columns, PersonMetric
from pnfs.inference.predictor import ScoredPredictor
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
    named = {name.removeprefix("val/"): float(value) for name, value in results.items()}
    scores = {name: value for name, value in named.items() if name not in ("loss", "score")}
    return scores, collector.predictions


def require_whole_split(trainer: Mapping[str, Any]) -> None:
    """Refuses keys that would score a part of the split, and could not be told from a score of all."""
    for key, value in trainer.items():
        limits = key.startswith("limit_") or key in ("overfit_batches", "fast_dev_run")
        if limits and value is not None:
            raise UsageError(
                f"trainer.{key}={value}: a score is of the whole split; leave this key out"
            )


def evaluation_choices(
    module: PoseModule | ScoredPredictor, source: PoseDataset, split: str
) -> dict[str, Any]:
    """Everything besides weights and data that a score depends on, as tables and records name it."""
    choices: dict[str, Any] = {"split": split, "flip_test": module.flip_test}
    if module.flip_test:
        choices["flip_shift"] = module.codec.flip_shift
    choices["decode_method"] = module.codec.decode_method
    return {**choices, **source.evaluation_choices(split)}


def score_table(title: str, columns: Mapping[str, Mapping[str, float]]) -> Table:
    """Scores as benchmarks print them: one row a score and set of scores, one column a group of joints.

    Args:
        title: Says what was evaluated.
        columns: Name of a set ("trained", or "") -> score name ("PCKh@0.5/head", ...) -> value: PCK in percent,
            COCO's average precision and recall as fractions.
    """
    names = list(dict.fromkeys(name for scores in columns.values() for name in scores))
    groups = list(dict.fromkeys(name.partition("/")[2] for name in names))
    note = "PCKh@0.11 is what public code prints as @0.1." if "PCKh@0.11" in names else None
    # Narrow, so that all groups of joints fit a terminal of 80 columns.
    table = Table("score", title=title, caption=note, padding=0)
    for group in groups:
        table.add_column(group or "all", justify="right", style=None if group else "bold")
    for score in dict.fromkeys(name.partition("/")[0] for name in names):
        keys = [f"{score}/{group}" if group else score for group in groups]
        for which, scores in columns.items():
            cells = [_number(scores[key], score) if key in scores else "" for key in keys]
            table.add_row(f"{score} {which}".strip(), *cells)
    return table


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

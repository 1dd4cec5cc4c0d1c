"""`pnfs train`: search, train, evaluate; one folder and one record a run."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from pnfs.commands.building import build_data, build_training
from pnfs.commands.checks import check_settings, require_labels
from pnfs.commands.configuration import plain
from pnfs.commands.outcome import keep_record, main_score, show_scores, training_record
from pnfs.commands.processes import process_count, run_in_processes
from pnfs.commands.report import write_pictures
from pnfs.commands.resolvers import persons_of, training_source
from pnfs.commands.scoring import evaluation_choices, score, score_and_predict
from pnfs.commands.trainer import build_loggers, fit, newest_whole, what_is_left
from pnfs.data.datasets.base import GROUND_TRUTH_BOXES
from pnfs.runs.identity import require_same, run_identity
from pnfs.runs.record import RESULT, read_result
from pnfs.runs.state import (
    LAST_CHECKPOINT,
    UnfinishedError,
    clear,
    held_run,
    keep_failure,
    kept_state,
)
from pnfs.runs.wandb_run import finished_wandb
from pnfs.training.checkpoints import IDENTITY_KEY, find_checkpoint, read_checkpoint
from pnfs.training.keeping import why_unfinished

log = logging.getLogger(__name__)


def run(config: DictConfig) -> float:
    """Runs one configuration; returns its score, which a sweeper may maximise."""
    settings = plain(config)
    check_settings(settings)
    folder = Path(settings["run_dir"])
    if settings["trainer"].get("fast_dev_run"):
        return _try_out(settings)
    identity = run_identity(settings, persons_of(settings))
    finished = None if settings["restart"] else _finished_before(settings, identity)
    if finished is not None:
        return main_score(finished)
    with held_run(folder):
        # Another process may have trained it meanwhile.
        finished = None if settings["restart"] else _finished_before(settings, identity)
        if finished is not None:
            return main_score(finished)
        if settings["restart"]:
            clear(folder)
        try:
            require_labels(training_source(settings))
        except Exception as error:
            keep_failure(folder, settings, error)
            raise
        return main_score(_train_and_keep(settings, identity))


def _finished_before(
    settings: Mapping[str, Any], identity: Mapping[str, Any]
) -> dict[str, Any] | None:
    folder = Path(settings["run_dir"])
    record = read_result(folder)
    if record is not None:
        require_same(folder / RESULT, record.get("identity"), identity)
        log.info("finished before: %s (restart=true trains it again)", folder)
        show_scores(settings, {"trained": record["scores"]})
    return record


def _train_and_keep(settings: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
    """Trains a run that this process holds; returns its record.

    Raises:
        UnfinishedError: It was stopped before its last epoch.
    """
    folder = Path(settings["run_dir"])
    with kept_state(folder, settings, identity) as earlier_seconds:
        log.info("run folder: %s", folder)
        last = folder / LAST_CHECKPOINT
        if last.is_file():
            whole = newest_whole(folder)
            require_same(whole, read_checkpoint(whole, builds=()).get(IDENTITY_KEY), identity)
        job = {"settings": settings, "identity": identity, "earlier_seconds": earlier_seconds}
        processes = process_count(settings["trainer"])
        if processes == 1:
            train_one(**job)
        else:
            run_in_processes(train_one, job, processes, folder)
        record = read_result(folder)
        if record is None:
            raise UnfinishedError(what_is_left(settings, folder))
    return record


def train_one(
    *, settings: dict[str, Any], identity: dict[str, Any], earlier_seconds: float
) -> None:
    """One process's share of a run; the first scores it and writes the record.

    There is no record where the training did not come to its end.
    """
    started, folder = time.monotonic() - earlier_seconds, Path(settings["run_dir"])
    source = training_source(settings)
    loggers = build_loggers(settings)
    with finished_wandb(loggers):
        data, module = build_training(settings, source)
        final = data if data.source is source else build_data(settings, source)
        untrained: dict[str, float] = {}
        if settings["evaluate_untrained"]:
            untrained = score(module, final, settings["trainer"], "val")
        fit(settings, module, data, loggers, identity)
        stopped = why_unfinished(module.trainer)
        if stopped is not None:
            log.info("not finished: %s", stopped)
            return
        final.trainer = data.trainer
        weights = find_checkpoint(folder)
        best = read_checkpoint(weights, builds=())
        module.load_weights(best["state_dict"])
        module.flip_test = True
        scores, predictions = score_and_predict(module, final, settings["trainer"], "val")
        if getattr(rank_zero_only, "rank", 0):
            return
        choices = evaluation_choices(module, source, "val")
        choices |= {"weights": weights.stem, "best_epoch": best["epoch"]}
        if final is not data:
            choices["best_epoch_by"] = GROUND_TRUTH_BOXES["boxes"] + " boxes"
        seconds = time.monotonic() - started
        record = training_record(settings, module, source, scores, untrained, seconds, choices)
        pictures = write_pictures(module, final, folder, "val", predictions)
        keep_record(folder, record, identity, loggers, pictures)


def _try_out(settings: dict[str, Any]) -> float:
    """One batch of everything, as `trainer.fast_dev_run` asks for; keeps nothing, and has no score."""
    settings = settings | {"trainer": settings["trainer"] | {"devices": 1, "strategy": "auto"}}
    source = training_source(settings)
    require_labels(source)
    data, module = build_training(settings, source)
    fit(settings, module, data, build_loggers(settings), {})
    log.info("trainer.fast_dev_run: the steps ran; nothing was trained, scored or kept")
    return math.nan

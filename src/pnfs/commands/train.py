"""`pnfs train`: search, train, evaluate; one folder and one record a run."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from pnfs.commands.building import build_module, training_source
from pnfs.commands.configuration import console, persons_of
from pnfs.commands.pictures import log_media, write_pictures
from pnfs.commands.processes import process_count, run_in_processes
from pnfs.commands.scoring import described, evaluation_choices, score_and_predict, score_table
from pnfs.commands.trainer import build_loggers, check_settings, fit, newest_whole, require_labels
from pnfs.data.datasets.base import GROUND_TRUTH_BOXES, PoseDataset
from pnfs.data.module import PoseDataModule
from pnfs.models import PoseNetwork
from pnfs.models.cost import measure_cost
from pnfs.runs.identity import require_same, run_identity
from pnfs.runs.record import RESULT, provenance, read_result, write_result
from pnfs.runs.state import LAST_CHECKPOINT, UnfinishedError, clear, held_run, kept_state
from pnfs.runs.wandb_run import RunLogger, finished_wandb
from pnfs.training.checkpoints import (
    IDENTITY_KEY,
    find_checkpoint,
    load_network_state,
    read_checkpoint,
)
from pnfs.training.keeping import why_unfinished
from pnfs.training.module import PoseModule

log = logging.getLogger(__name__)


def run(settings: dict[str, Any]) -> float:
    """Runs one configuration; returns its score, which a sweeper may maximise: nan where it has none."""
    check_settings(settings)
    folder = Path(settings["run_dir"])
    if settings["trainer"].get("fast_dev_run"):
        return _try_out(settings)
    identity = run_identity(settings, persons_of(settings))
    # Waits for another process that trains it, and then takes its result.
    with held_run(folder):
        if settings["restart"]:
            clear(folder)
        record = read_result(folder)
        if record is None:
            record = _train_and_keep(settings, identity)
        else:
            require_same(folder / RESULT, record.get("identity"), identity)
            log.info("finished before: %s (restart=true trains it again)", folder)
            _show_scores(settings, {"trained": record["scores"]})
    return math.nan if record["score"] is None else float(record["score"])


def _train_and_keep(settings: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
    """Trains a run that this process holds; its record, or an `UnfinishedError` where it was stopped."""
    folder = Path(settings["run_dir"])
    with kept_state(folder, settings, identity) as earlier_seconds:
        log.info("run folder: %s", folder)
        require_labels(training_source(settings))
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
            kept = read_checkpoint(newest_whole(folder), builds=()) if last.is_file() else {}
            epochs, steps = settings["trainer"]["max_epochs"], settings["trainer"].get("max_steps")
            advice = "the same command resumes it"
            if steps not in (None, -1):
                advice = f"trainer.max_steps={steps} ends it there; epochs={epochs} without it is another run"
            raise UnfinishedError(
                f"{folder}: not finished, {kept.get('epoch', -1) + 1} of {epochs} epochs are trained and "
                f"nothing is scored; {advice}"
            )
    return record


def train_one(*, settings: dict[str, Any], identity: dict[str, Any], earlier_seconds: float) -> None:
    """One process's share of a run; the first scores it and writes the record, if the training came to its end."""
    started, folder = time.monotonic() - earlier_seconds, Path(settings["run_dir"])
    source = training_source(settings)
    loggers = build_loggers(settings)
    with finished_wandb(loggers):
        data, module = _data_and_module(settings, source)
        final = data if data.source is source else _build_data(settings, source)
        untrained: dict[str, float] = {}
        if settings["evaluate_untrained"]:
            untrained = score_and_predict(module, final, settings["trainer"], "val")[0]
        fit(settings, module, data, loggers, identity)
        stopped = why_unfinished(module.trainer)
        if stopped is not None:
            log.info("not finished: %s", stopped)
            return
        final.trainer = data.trainer
        weights = find_checkpoint(folder)
        best = read_checkpoint(weights, builds=())
        load_network_state(module.network, best, weights)
        module.flip_test = True
        scores, predictions = score_and_predict(module, final, settings["trainer"], "val")
        if getattr(rank_zero_only, "rank", 0):
            return
        choices = evaluation_choices(module, source, "val")
        choices |= {"weights": weights.stem, "best_epoch": best["epoch"]}
        if final is not data:
            choices["best_epoch_by"] = GROUND_TRUTH_BOXES["boxes"] + " boxes"
        primary, score = next(iter(scores.items()))
        record = {
            **{key: settings[key] for key in ("name", "seed")},
            **{"kind": "train", "primary": primary, "score": score, "scores": scores},
            "untrained_scores": untrained,
            "evaluated_with": choices,
            "cost": _cost(module.network, settings["input_size"]),
            "seconds": round(time.monotonic() - started, 1),
            **provenance(settings["trainer"]["accelerator"]),
            "config": settings,
            "data": {split: source.persons(split).account() for split in ("train", "val")},
        }
        # Scores are safe before anything else is written that may fail.
        write_result(folder, record | {"identity": identity})
        pictures = write_pictures(module, final, folder, "val", predictions)
        for logger in loggers:
            if isinstance(logger, RunLogger):
                logger.log_record(record, folder)
        log_media(loggers, pictures, settings["trainer"]["max_epochs"])
        _show_scores(settings, {"untrained": untrained, "trained": scores})
        console.print(described(choices))
        for what, path in pictures.items():
            log.info("%s: %s", what, path)
        log.info("%s: %s; record: %s", primary, score, folder / RESULT)


def _try_out(settings: dict[str, Any]) -> float:
    """One batch of everything, as `trainer.fast_dev_run` asks for; keeps nothing, and has no score."""
    settings = settings | {"trainer": settings["trainer"] | {"devices": 1, "strategy": "auto"}}
    source = training_source(settings)
    require_labels(source)
    data, module = _data_and_module(settings, source)
    fit(settings, module, data, build_loggers(settings), {})
    log.info("trainer.fast_dev_run: the steps ran; nothing was trained, scored or kept")
    return math.nan


def _data_and_module(settings: dict[str, Any], source: PoseDataset) -> tuple[PoseDataModule, PoseModule]:
    """Data and network of a run, both as its seed makes them."""
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    # Problems of the data show before anything is built.
    for split in ("train", "val"):
        log.info(source.persons(split).described())
    # A detector's persons have no labels: no loss, and hours of boxes that hold nobody.
    watched = source.in_labelled_boxes()
    if watched is not source:
        log.info("validation while training: ground-truth boxes; final score: detected boxes")
    return _build_data(settings, watched), build_module(settings, watched)


def _build_data(settings: Mapping[str, Any], source: PoseDataset) -> PoseDataModule:
    given = {"source": source, "augmentation": settings["augmentation"]}
    return instantiate(settings["data"], **given, _convert_="all")


def _cost(network: PoseNetwork, input_size: Sequence[int]) -> dict[str, int]:
    size = (input_size[0], input_size[1])
    cost = measure_cost(network, size)
    # The summary in public pose code, and so the paper, counts transposed convolutions another way.
    transposed = any(isinstance(layer, nn.ConvTranspose2d) for layer in network.modules())
    by_output = measure_cost(network, size, "output").macs if transposed else cost.macs
    counts = {name: getattr(cost, name) for name in ("parameters", "live_parameters", "macs")}
    return counts | {"macs_by_output": by_output}


def _show_scores(settings: Mapping[str, Any], columns: Mapping[str, Mapping[str, float]]) -> None:
    """Prints a table of scores: column -> metric -> score."""
    dataset, model = (settings[key]["_target_"].rsplit(".", 1)[-1] for key in ("dataset", "model"))
    parts = settings["model"].get("parts")
    what = f"P={len(parts)}" if parts else model
    shown = {name: column for name, column in columns.items() if column}
    console.print(score_table(f"{dataset} val, {what}, flip test", shown))

"""`pnfs train`: search, train, evaluate; one folder and one record a run."""

import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console

from pnfs.commands.building import build_data, build_training, training_settings
from pnfs.commands.configuration import build_source
from pnfs.commands.outcome import keep_record, main_score, show_scores, training_record
from pnfs.commands.processes import process_count, run_in_processes
from pnfs.commands.report import write_pictures
from pnfs.commands.scoring import evaluation_choices, score, score_and_predict
from pnfs.commands.trainer import build_loggers, fit, what_is_left
from pnfs.data.module import Source
from pnfs.data.predictions import GROUND_TRUTH_BOXES
from pnfs.runs.identity import read_digests, require_same, run_folder, run_identity
from pnfs.runs.record import RESULT, read_result
from pnfs.runs.state import LAST_CHECKPOINT, UnfinishedError, kept_state
from pnfs.runs.wandb_run import finished_wandb
from pnfs.training.checkpoints import IDENTITY_KEY, find_checkpoint, read_checkpoint
from pnfs.training.keeping import why_unfinished

console = Console()


def run(config: DictConfig) -> float:
    """Runs one configuration; returns its score, which a sweeper may maximise."""
    settings, source = training_settings(config)
    if settings["trainer"].get("fast_dev_run"):
        return _try_out(settings, source)
    persons = read_digests(source)
    identity, folder = run_identity(settings, persons), run_folder(settings, persons)
    if settings["restart"] and folder.exists():
        shutil.rmtree(folder)
    finished = read_result(folder)
    if finished is not None:
        require_same(folder / RESULT, finished.get("identity"), identity)
        console.print(f"finished before: {folder} (restart=true trains it again)")
        show_scores(settings, {"trained": finished["scores"]})
        return main_score(finished)
    processes = process_count(settings["trainer"])
    with kept_state(folder, settings, identity) as earlier_seconds:
        console.print(f"run folder: {folder}")
        last = folder / LAST_CHECKPOINT
        if last.is_file():
            require_same(last, read_checkpoint(last, builds=()).get(IDENTITY_KEY), identity)
        job = {
            "settings": settings,
            "folder": str(folder),
            "earlier_seconds": earlier_seconds,
            "identity": identity,
        }
        if processes == 1:
            _train(source=source, **job)
        else:
            run_in_processes(run_as_rank, job, processes, folder / "ranks")
        record = read_result(folder)
        if record is None:
            raise UnfinishedError(what_is_left(settings, folder))
    return main_score(record)


def run_as_rank(**job: Any) -> None:
    """One process's share of a run in several; only the first writes."""
    settings = job["settings"]
    _train(source=build_source(settings["dataset"], settings["input_size"]), **job)


def _train(
    *,
    source: Source,
    settings: dict[str, Any],
    folder: str,
    earlier_seconds: float,
    identity: dict[str, Any],
) -> None:
    """Trains, scores and writes the record; no record where the training did not come to its end."""
    started, place = time.monotonic() - earlier_seconds, Path(folder)
    loggers = build_loggers(settings, place)
    with finished_wandb(loggers):
        data, module = build_training(settings, source)
        final = data if data.source is source else build_data(settings, source)
        untrained: dict[str, float] = {}
        if settings["evaluate_untrained"]:
            untrained = score(module, final, settings["trainer"], "val")
        fit(settings, module, data, place, loggers, identity)
        stopped = why_unfinished(module.trainer, settings["epochs"])
        if stopped is not None:
            console.print(f"not finished: {stopped}", soft_wrap=True)
            return
        final.trainer = data.trainer
        weights = find_checkpoint(place)
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
        pictures = write_pictures(module, final, place, "val", predictions)
        keep_record(place, record, identity, loggers, pictures)


def _try_out(settings: dict[str, Any], source: Source) -> float:
    """One batch of everything, as `trainer.fast_dev_run` asks for; leaves nothing behind, and has no score."""
    trainer = settings["trainer"] | {"devices": 1, "strategy": "auto"}
    settings = settings | {"trainer": trainer}
    with tempfile.TemporaryDirectory(prefix="pnfs-") as folder:
        data, module = build_training(settings, source)
        fit(settings, module, data, Path(folder), [], {})
    console.print("trainer.fast_dev_run: the steps ran; nothing was trained, scored or kept")
    return math.nan

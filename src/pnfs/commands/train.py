"""`pnfs train`: search, train, evaluate; one folder and one record a run."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import get_class
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from pnfs.commands import building, scoring
from pnfs.commands.configuration import UsageError, console
from pnfs.commands.processes import process_count, run_in_processes
from pnfs.commands.train_checks import check_settings, named_start, require_labels
from pnfs.data.datasets.base import GROUND_TRUTH_BOXES
from pnfs.data.module import PoseDataModule
from pnfs.models import PoseNetwork
from pnfs.models.cost import measure_cost
from pnfs.runs import state
from pnfs.runs.identity import require_same, run_identity
from pnfs.runs.wandb_run import RunLogger, finished_wandb
from pnfs.training import checkpoints
from pnfs.training.keeping import why_unfinished
from pnfs.training.module import PoseModule, keep_freed_memory

log = logging.getLogger(__name__)


def run(settings: dict[str, Any]) -> float:
    """Runs one configuration; returns its score, which a sweeper may maximise: nan where it has none."""
    check_settings(settings)
    folder = Path(settings["run_dir"])
    if settings["trainer"].get("fast_dev_run"):  # One batch of everything, which keeps nothing and has no score.
        trainer = settings["trainer"] | {"devices": 1, "strategy": "auto"}
        train_one(settings=settings | {"trainer": trainer}, identity={}, start=None)
        return math.nan
    identity = run_identity(settings, building.persons_of(settings))
    # Waits for another process that trains it, and then takes its result.
    with state.held_run(folder):
        if settings["restart"]:
            state.clear(folder)
        record = state.read_result(folder)
        kind = "train" if record is None else record.get("kind", "train")
        if kind != "train":
            raise UsageError(
                f"{folder / state.RESULT}: `pnfs {kind}` wrote it; move it away, or set another run_dir"
            )
        if record is None:
            record = _train_and_keep(settings, identity)
        else:
            require_same(folder / state.RESULT, record.get("identity"), identity)
            log.info("finished before: %s (restart=true trains it again)", folder)
            _show_scores(settings, {"trained": record["scores"]})
    return math.nan if record["score"] is None else float(record["score"])


def _train_and_keep(settings: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
    """Trains a run that this process holds; its record, or an `UnfinishedError` where it was stopped."""
    folder = Path(settings["run_dir"])
    with state.kept_state(folder, settings, identity) as earlier_seconds:
        log.info("run folder: %s", folder)
        start = newest_whole(folder)
        if start is not None:
            found = checkpoints.read_checkpoint(start, builds=())
            require_same(start, found.get(checkpoints.IDENTITY_KEY), identity)
        elif settings["ckpt_path"] is not None:
            start = named_start(settings)
        job = {"settings": settings, "identity": identity, "start": start, "earlier_seconds": earlier_seconds}
        processes = process_count(settings["trainer"])
        if processes <= 1:
            train_one(**job)
        else:
            run_in_processes(train_one, job, processes, folder)
        if (record := state.read_result(folder)) is not None:
            return record
        kept = newest_whole(folder)
        epoch = -1 if kept is None else checkpoints.read_checkpoint(kept, builds=())["epoch"]
        raise state.UnfinishedError(
            f"{folder}: not finished, {epoch + 1} of {settings['trainer']['max_epochs']} epochs are trained and "
            "nothing is scored; the same command resumes it (without trainer.max_steps it is another run)"
        )


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a run's folder that is not damaged; None where there is none at all."""
    last = folder / state.LAST_CHECKPOINT
    if not last.is_file():
        return None
    for path in (last, last.with_name("previous.ckpt")):
        if path.is_file() and checkpoints.damage(path) is None:
            if path != last:
                log.warning("%s is damaged: training goes on from %s in its place", last, path.name)
            return path
    raise checkpoints.CheckpointError(f"{last}: damaged, like the one before it; restart=true trains anew")


def train_one(
    *, settings: dict[str, Any], identity: Mapping[str, Any], start: Path | None, earlier_seconds: float = 0.0
) -> None:
    """One process's share of a run, which is scored if the training came to its end."""
    started = time.monotonic() - earlier_seconds
    dataset, trainer = building.training_dataset(settings), settings["trainer"]
    # A detector's persons have no labels: no loss, and hours of boxes that hold nobody.
    watched = dataset.in_labelled_boxes()
    require_labels(watched)
    loggers = building.build_loggers(settings)
    with finished_wandb(loggers):
        L.seed_everything(settings["seed"], workers=True, verbose=False)
        for split in ("train", "val"):
            log.info(dataset.persons(split).described())
        if watched is not dataset:
            log.info("validation while training: ground-truth boxes; final score: detected boxes")
        data, module = building.build_data(settings, watched), building.build_module(settings, watched)
        final = data if watched is dataset else building.build_data(settings, dataset)
        untrained: dict[str, float] = {}
        if settings["evaluate_untrained"]:
            untrained = scoring.score_and_predict(module, final, trainer, "val")[0]
        fit(settings, module, data, loggers, identity, start)
        if trainer.get("fast_dev_run"):
            log.info("trainer.fast_dev_run: the steps ran; nothing was trained, scored or kept")
            return
        stopped = why_unfinished(module.trainer)
        if stopped is not None:
            log.info("not finished: %s", stopped)
            return
        final.trainer = data.trainer
        boxes = {} if final is data else {"best_epoch_by": GROUND_TRUTH_BOXES["boxes"] + " boxes"}
        _score_and_keep(settings, identity, module, final, loggers, untrained, boxes, started)


def _score_and_keep(
    settings: Mapping[str, Any],
    identity: Mapping[str, Any],
    module: PoseModule,
    data: PoseDataModule,
    loggers: list[Logger],
    untrained: Mapping[str, float],
    boxes: Mapping[str, str],
    started: float,
) -> None:
    """Scores the best weights; the first process writes the record and the pictures, and prints both."""
    folder, trainer, dataset = Path(settings["run_dir"]), settings["trainer"], data.dataset
    weights = checkpoints.find_checkpoint(folder)
    best = checkpoints.read_checkpoint(weights, builds=())
    checkpoints.load_network_state(module.network, best, weights)
    module.flip_test = True
    scores, predictions = scoring.score_and_predict(module, data, trainer, "val")
    if getattr(rank_zero_only, "rank", 0):
        return
    choices = scoring.evaluation_choices(module, dataset, "val")
    choices |= {"weights": weights.stem, "best_epoch": best["epoch"], **boxes}
    primary, score = next(iter(scores.items()))
    record = {
        **{key: settings[key] for key in ("name", "seed")},
        **{"kind": "train", "primary": primary, "score": score, "scores": scores},
        "untrained_scores": untrained,
        "evaluated_with": choices,
        "cost": _cost(module.network, tuple(settings["input_size"])),
        "seconds": round(time.monotonic() - started, 1),
        **state.provenance(trainer["accelerator"]),
        "config": settings,
        "data": {split: dataset.persons(split).account() for split in ("train", "val")},
    }
    # Scores are safe before anything else is written that may fail.
    state.write_result(folder, record | {"identity": identity})
    pictures = scoring.write_pictures(module, data, folder, "val", predictions)
    for logger in loggers:
        if isinstance(logger, RunLogger):
            logger.log_record(record, folder)
    scoring.log_media(loggers, pictures, trainer["max_epochs"])
    _show_scores(settings, {"untrained": untrained, "trained": scores})
    console.print(scoring.described(choices | {"best_epoch": best["epoch"] + 1}))  # From 1, as in the log.
    for what, path in pictures.items():
        log.info("%s: %s", what, path)
    log.info("%s: %s; record: %s", primary, score, folder / state.RESULT)


def _cost(network: PoseNetwork, size: tuple[int, int]) -> dict[str, int]:
    cost = vars(measure_cost(network, size))
    counts = {name: cost[name] for name in ("parameters", "live_parameters", "macs")}
    # The summary in public pose code, and so the paper, counts transposed convolutions another way.
    transposed = any(isinstance(layer, nn.ConvTranspose2d) for layer in network.modules())
    by_output = measure_cost(network, size, by_output=True).macs if transposed else cost["macs"]
    return counts | {"macs_by_output": by_output}


def _show_scores(settings: Mapping[str, Any], columns: Mapping[str, Mapping[str, float]]) -> None:
    """Prints a table of scores: column -> metric -> score."""
    dataset, model = (settings[key]["_target_"].rsplit(".", 1)[-1] for key in ("dataset", "model"))
    parts = settings["model"].get("parts")
    title = f"{dataset} val, {f'P={len(parts)}' if parts else model}, flip test"
    console.print(scoring.score_table(title, {name: column for name, column in columns.items() if column}))


def fit(
    settings: Mapping[str, Any],
    module: PoseModule,
    data: PoseDataModule,
    loggers: list[Logger],
    identity: Mapping[str, Any],
    start: Path | None,
) -> None:
    """Trains from the beginning, or goes on from the checkpoint `start`."""
    folder, initial = Path(settings["run_dir"]), settings["initial"]
    if start is not None:
        finished = checkpoints.read_checkpoint(start, builds=())["epoch"] + 1
        log.info("resuming after epoch %d of %s", finished, settings["trainer"]["max_epochs"])
        rank_zero_only(state.set_aside)(folder, finished)
    elif initial is not None:
        content = checkpoints.read_checkpoint(initial, builds=())
        try:
            checkpoints.load_network_state(module.network, content, initial)
        except checkpoints.CheckpointError as error:
            raise UsageError(
                f"initial={initial} holds another network than `model`; experiment=finetune takes the checkpoint's"
            ) from error
    else:
        module.network.calibrate(data.first_batch()["image"])
    if settings["acceleration"]["keep_memory"]:
        keep_freed_memory()
    mode, strategy = settings["acceleration"]["compile"], get_class(settings["strategy"]["_target_"])
    if mode is not None and not getattr(strategy, "compilable", True):
        log.info("the steps of %s cannot be compiled; they run eagerly", strategy.__name__)
    elif mode is not None:
        log.info("the first steps compile the network, which takes a minute or two")
        module.compile_training(mode)
    trainer = building.build_trainer(settings, loggers, identity)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    except SystemExit as error:
        if error.code == 1:  # What Lightning makes of Ctrl-C.
            raise KeyboardInterrupt from None
        raise
    finally:
        rank_zero_only(state.put_together)(folder)

"""`pnfs train`: search, train, evaluate; one folder and one record a run."""

import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console

from pnfs.commands.checks import require_free_keys, require_labels
from pnfs.commands.configuration import (
    UsageError,
    build_network,
    build_source,
    choose_parts,
    plain,
    without_downloads,
)
from pnfs.commands.processes import process_count, run_in_processes
from pnfs.commands.scoring import (
    evaluation_choices,
    log_media,
    score,
    score_and_predict,
    warn_of_last,
    write_pictures,
)
from pnfs.commands.tables import described, score_table
from pnfs.commands.trainer import build_loggers, build_trainer, compile_steps
from pnfs.data.module import PoseDataModule, Source
from pnfs.data.predictions import GROUND_TRUTH_BOXES, in_labelled_boxes
from pnfs.models import PoseNetwork
from pnfs.models.cost import measure_cost
from pnfs.training.checkpoints import CONFIG_KEY, IDENTITY_KEY, find_checkpoint, read_checkpoint
from pnfs.training.identity import read_digests, run_folder, run_identity
from pnfs.training.keeping import why_unfinished
from pnfs.training.memory import keep_freed_memory
from pnfs.training.metrics_file import put_together, set_aside
from pnfs.training.module import PoseModule
from pnfs.training.records import (
    LAST_CHECKPOINT,
    RESULT,
    UnfinishedError,
    kept_state,
    provenance,
    read_result,
    require_same,
    write_result,
)
from pnfs.training.wandb_run import finished_wandb, log_summary

console = Console()


def run(config: DictConfig) -> float:
    """Runs one configuration; returns its score, which a sweeper may maximise."""
    if "_target_" not in config.dataset:
        raise UsageError(
            "dataset=of_checkpoint is for commands that read a checkpoint; choose a dataset to train on"
        )
    require_free_keys(config.trainer)
    source = build_source(plain(config.dataset))
    choose_parts(config, source.skeleton.name)
    settings = plain(config)
    if settings["initial"] is not None:
        settings = start_from(settings, source.skeleton.name)
    source = build_source(settings["dataset"], settings["input_size"])
    require_labels(source)
    if settings["trainer"].get("fast_dev_run"):
        return _try_out(settings, source)
    persons = read_digests(source)
    identity = run_identity(settings, persons)
    folder = run_folder(settings, persons)
    if settings["restart"] and folder.exists():
        shutil.rmtree(folder)
    finished = read_result(folder)
    if finished is not None:
        require_same(folder / RESULT, finished.get("identity"), identity)
        console.print(f"finished before: {folder} (restart=true trains it again)")
        console.print(score_table(_title(settings), {"trained": finished["scores"]}))
        return _number(finished["score"])
    processes = process_count(settings["trainer"])
    with kept_state(folder, settings, identity) as earlier_seconds:
        console.print(f"run folder: {folder}")
        last = folder / LAST_CHECKPOINT
        if last.is_file():
            stored = read_checkpoint(last, builds=()).get(IDENTITY_KEY)
            require_same(last, stored, identity)
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
            raise UnfinishedError(_what_is_left(settings, folder))
    return _number(record["score"])


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
    loggers = build_loggers(settings, Path(folder))
    with finished_wandb(loggers):
        _search_and_score(settings, source, Path(folder), earlier_seconds, loggers, identity)


def _try_out(settings: dict[str, Any], source: Source) -> float:
    """One batch of everything, as `trainer.fast_dev_run` asks for; leaves nothing behind, and has no score."""
    trainer = settings["trainer"] | {"devices": 1, "strategy": "auto"}
    settings = settings | {"trainer": trainer}
    with tempfile.TemporaryDirectory(prefix="pnfs-") as folder:
        data, module = _prepared(settings, source)
        _fit(settings, module, data, Path(folder), [], {})
    console.print("trainer.fast_dev_run: the steps ran; nothing was trained, scored or kept")
    return math.nan


def _what_is_left(settings: dict[str, Any], folder: Path) -> str:
    """What a run that was stopped has trained, and how to go on."""
    last, epochs = folder / LAST_CHECKPOINT, settings["epochs"]
    done = read_checkpoint(last, builds=())["epoch"] + 1 if last.is_file() else 0
    steps = settings["trainer"].get("max_steps", -1)
    advice = (
        "the same command resumes it"
        if steps in (None, -1)
        else f"trainer.max_steps={steps} ends it there; without that key, epochs={epochs} is another run"
    )
    return f"{folder}: not finished, {done} of {epochs} epochs are trained and nothing is scored; {advice}"


def _number(score: float | None) -> float:
    """A score of a record; nan where that has none."""
    return math.nan if score is None else float(score)


def _prepared(settings: dict[str, Any], source: Source) -> tuple[PoseDataModule, PoseModule]:
    """Data and network of a run, both as its seed makes them."""
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    # Problems of the data show before anything is built.
    for split in ("train", "val"):
        console.print(source.persons(split).described(), soft_wrap=True)
    # A detector's persons have no labels: no loss, and hours of boxes that hold nobody.
    watched = in_labelled_boxes(source)
    if watched is not source:
        console.print("validation while training: ground-truth boxes; final score: detected boxes")
    return build_data(settings, watched), build_module(settings, watched)


def _search_and_score(
    settings: dict[str, Any],
    source: Source,
    folder: Path,
    earlier_seconds: float,
    loggers: list[Logger],
    identity: dict[str, Any],
) -> None:
    """Trains, scores and writes the record; no record where the training did not come to its end."""
    started = time.monotonic() - earlier_seconds
    data, module = _prepared(settings, source)
    final = data if data.source is source else build_data(settings, source)
    untrained: dict[str, float] = {}
    if settings["evaluate_untrained"]:
        untrained = score(module, final, settings["trainer"], "val")
    _fit(settings, module, data, folder, loggers, identity)
    stopped = why_unfinished(module.trainer, settings["epochs"])
    if stopped is not None:
        console.print(f"not finished: {stopped}", soft_wrap=True)
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
    record = _record(settings, module, scores, untrained, time.monotonic() - started, choices)
    record["data"] = {split: source.persons(split).account() for split in ("train", "val")}
    pictures = write_pictures(module, final, folder, "val", predictions)
    write_result(folder, record | {"identity": identity})
    log_summary(loggers, record)
    log_media(loggers, pictures, settings["epochs"])
    columns = {"untrained": untrained, "trained": scores} if untrained else {"trained": scores}
    console.print(score_table(_title(settings), columns))
    console.print(described(choices))
    warn_of_last(weights)
    for what, path in pictures.items():
        console.print(f"{what}: {path}", soft_wrap=True)
    console.print(f"record: {folder / 'result.json'}", soft_wrap=True)


def build_data(settings: Mapping[str, Any], source: Source) -> PoseDataModule:
    """Loaders of a dataset as the configuration wants them."""
    return instantiate(
        settings["data"], source=source, augmentation=settings["augmentation"], _convert_="all"
    )


def _fit(
    settings: dict[str, Any],
    module: PoseModule,
    data: PoseDataModule,
    folder: Path,
    loggers: list[Logger],
    identity: dict[str, Any],
) -> None:
    """Trains from the beginning, or from where an earlier start of the same run was stopped."""
    last = folder / LAST_CHECKPOINT
    resumes = last.is_file()
    if resumes:
        finished = read_checkpoint(last, builds=())["epoch"] + 1
        console.print(f"resuming after epoch {finished} of {settings['epochs']}")
        rank_zero_only(set_aside)(folder, finished)
    elif settings["initial"] is not None:
        # `start_from` has checked what it names.
        module.load_weights(read_checkpoint(settings["initial"], builds=())["state_dict"])
    else:
        module.network.calibrate(module.network.normalise(data.first_batch()["image"]))
    if settings["acceleration"]["keep_memory"]:
        keep_freed_memory()
    compile_steps(module, settings)
    trainer = build_trainer(settings, folder, loggers, identity)
    try:
        trainer.fit(
            module, datamodule=data, ckpt_path=str(last) if resumes else None, weights_only=True
        )
    except SystemExit:
        # Lightning has ended the epoch's work after Ctrl-C.
        console.print(f"interrupted; the same command resumes {folder}", soft_wrap=True)
        raise
    finally:
        rank_zero_only(put_together)(folder)


def start_from(settings: dict[str, Any], skeleton: str) -> dict[str, Any]:
    """The configuration with the model of the checkpoint that `initial` names.

    Raises:
        UsageError: Its network predicts the joints of another skeleton.
    """
    checkpoint = read_checkpoint(settings["initial"], builds=("model",), trust=settings["trust"])
    trained = without_downloads(checkpoint[CONFIG_KEY])
    model = trained["model"]
    if model["skeleton"] != skeleton:
        raise UsageError(
            f"initial={settings['initial']} predicts the joints of {model['skeleton']}, the dataset "
            f"has those of {skeleton}"
        )
    return settings | {"model": model, "input_size": trained["input_size"]}


def build_module(
    settings: dict[str, Any], source: Source, network: PoseNetwork | None = None
) -> PoseModule:
    """The LightningModule of a resolved configuration, with a network of its own unless one is given."""
    return PoseModule(
        network=build_network(settings["model"]) if network is None else network,
        metric=source.metric("val"),
        optimizer=instantiate(settings["optimizer"], _convert_="all"),
        schedule=instantiate(settings["schedule"], _convert_="all"),
        loss=instantiate(settings["loss"]),
        **settings["codec"],
    )


def _record(
    settings: dict[str, Any],
    module: PoseModule,
    scores: dict[str, float],
    untrained: dict[str, float],
    seconds: float,
    choices: dict[str, Any],
) -> dict[str, Any]:
    height, width = settings["input_size"]
    cost = measure_cost(module.network, (height, width))
    return {
        "name": settings["name"],
        "seed": settings["seed"],
        "score": next(iter(scores.values())),
        "scores": scores,
        "untrained_scores": untrained,
        "evaluated_with": choices,
        "cost": {
            "parameters": cost.parameters,
            "live_parameters": cost.live_parameters,
            "macs": cost.macs,
            # The summary in public pose code, and so the paper, counts this way.
            "macs_by_output": measure_cost(module.network, (height, width), "output").macs,
        },
        "seconds": round(seconds, 1),
        **provenance(settings["trainer"]["accelerator"]),
        "config": settings,
    }


def _title(settings: dict[str, Any]) -> str:
    target = settings["dataset"]["_target_"].rsplit(".", 1)[-1]
    model = settings["model"]
    what = f"P={len(model['parts'])}" if "parts" in model else model["_target_"].rsplit(".", 1)[-1]
    return f"{target} val, {what}, flip test"

"""`pnfs train`: search, train, evaluate; one folder and one record a run."""

import shutil
import time
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console

from pnfs.commands.configuration import (
    UsageError,
    build_network,
    build_source,
    choose_parts,
    plain,
    without_downloads,
)
from pnfs.commands.processes import process_count, run_in_processes
from pnfs.commands.scoring import evaluation_choices, log_media, score, write_pictures
from pnfs.commands.tables import described, score_table
from pnfs.data.module import PoseDataModule, Source
from pnfs.models import PoseNetwork
from pnfs.models.cost import measure_cost
from pnfs.search import SearchStrategy
from pnfs.training.checkpoints import CONFIG_KEY, KeepConfig, read_checkpoint
from pnfs.training.memory import keep_freed_memory
from pnfs.training.metrics_file import put_together, set_aside
from pnfs.training.module import PoseModule
from pnfs.training.monitors import ArchitectureMonitor
from pnfs.training.records import (
    kept_state,
    provenance,
    read_result,
    run_folder,
    write_result,
)
from pnfs.training.throughput import ThroughputMonitor
from pnfs.training.wandb_run import finished_wandb, log_summary, wandb_arguments

console = Console()


def run(config: DictConfig) -> float:
    """Runs one configuration; returns its score, which a sweeper may maximise."""
    if "_target_" not in config.dataset:
        raise UsageError(
            "dataset=of_checkpoint is for commands that read a checkpoint; choose a dataset to train on"
        )
    source = build_source(plain(config.dataset))
    choose_parts(config, source.skeleton.name)
    settings = plain(config)
    if settings["initial"] is not None:
        settings = start_from(settings, source.skeleton.name)
    folder = run_folder(settings)
    if settings["restart"] and folder.exists():
        shutil.rmtree(folder)
    finished = read_result(folder)
    if finished is not None:
        console.print(f"finished before: {folder} (restart=true trains it again)")
        console.print(score_table(_title(settings), {"trained": finished["scores"]}))
        return float(finished["score"])
    processes = process_count(settings["trainer"])
    with kept_state(folder, settings) as earlier_seconds:
        console.print(f"run folder: {folder}")
        if processes == 1:
            return _train(settings, source, folder, earlier_seconds)
        job = {"settings": settings, "folder": str(folder), "earlier_seconds": earlier_seconds}
        run_in_processes(run_as_rank, job, processes, folder / "ranks")
    record = read_result(folder)
    assert record is not None
    return float(record["score"])


def run_as_rank(settings: dict[str, Any], folder: str, earlier_seconds: float) -> None:
    """One process's share of a run in several; only the first writes."""
    _train(settings, build_source(settings["dataset"]), Path(folder), earlier_seconds)


def _train(settings: dict[str, Any], source: Source, folder: Path, earlier_seconds: float) -> float:
    loggers = build_loggers(settings, folder)
    with finished_wandb(loggers):
        return _search_and_score(settings, source, folder, earlier_seconds, loggers)


def _search_and_score(
    settings: dict[str, Any],
    source: Source,
    folder: Path,
    earlier_seconds: float,
    loggers: list[Logger],
) -> float:
    started = time.monotonic() - earlier_seconds
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    # Problems of the data show before anything is built.
    for split in ("train", "val"):
        persons = source.persons(split)
        console.print(f"{persons.name}: {len(persons):,} persons")
    data: PoseDataModule = instantiate(
        settings["data"], source=source, augmentation=settings["augmentation"], _convert_="all"
    )
    module = build_module(settings, source)
    untrained: dict[str, float] = {}
    if settings["evaluate_untrained"]:
        untrained = score(module, data, settings["trainer"], "val")
    _fit(settings, module, data, folder, loggers)
    best = read_checkpoint(folder, check=False)
    module.load_weights(best["state_dict"])
    module.flip_test = True
    scores = score(module, data, settings["trainer"], "val")
    if getattr(rank_zero_only, "rank", 0):
        return next(iter(scores.values()))
    choices = evaluation_choices(module, source, "val") | {"best_epoch": best["epoch"]}
    record = _record(settings, module, scores, untrained, time.monotonic() - started, choices)
    pictures = write_pictures(module, data, folder, "val")
    write_result(folder, record)
    log_summary(loggers, record)
    log_media(loggers, pictures, settings["epochs"])
    columns = {"untrained": untrained, "trained": scores} if untrained else {"trained": scores}
    console.print(score_table(_title(settings), columns))
    console.print(described(choices))
    for what, path in pictures.items():
        console.print(f"{what}: {path}", soft_wrap=True)
    console.print(f"record: {folder / 'result.json'}", soft_wrap=True)
    return float(record["score"])


def _fit(
    settings: dict[str, Any],
    module: PoseModule,
    data: PoseDataModule,
    folder: Path,
    loggers: list[Logger],
) -> None:
    """Trains from the beginning, or from where an earlier start of the same run was stopped."""
    last = folder / "checkpoints" / "last.ckpt"
    resumes = last.is_file()
    if resumes:
        finished = read_checkpoint(last, check=False)["epoch"] + 1
        console.print(f"resuming after epoch {finished} of {settings['epochs']}")
        rank_zero_only(set_aside)(folder, finished)
    elif settings["initial"] is not None:
        module.load_weights(read_checkpoint(settings["initial"])["state_dict"])
    else:
        first = next(iter(data.train_dataloader()))
        module.network.calibrate(module.network.normalise(first["image"]))
    if settings["acceleration"]["keep_memory"]:
        keep_freed_memory()
    compile_steps(module, settings)
    trainer = _trainer(settings, folder, loggers)
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


def compile_steps(module: PoseModule, settings: dict[str, Any]) -> None:
    """Compiles the training steps if that is asked for and possible."""
    mode = settings["acceleration"]["compile"]
    if mode is None:
        return
    if settings["strategy"]["_target_"].endswith(".SecondOrder"):
        # Its functional calls put other tensors in the place of the weights at every step.
        console.print("second-order search is not compiled; its steps run eagerly")
        return
    console.print("the first steps compile the network, which takes a minute or two")
    module.compile_training(mode)


def start_from(settings: dict[str, Any], skeleton: str) -> dict[str, Any]:
    """The configuration with the model of the checkpoint that `initial` names.

    Raises:
        UsageError: Its network predicts the joints of another skeleton.
    """
    trained = without_downloads(read_checkpoint(settings["initial"])[CONFIG_KEY])
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


def build_loggers(settings: dict[str, Any], folder: Path) -> list[Logger]:
    """CSV always, and what the logger group names."""
    loggers: list[Logger] = [CSVLogger(folder, name="", version="")]
    for name, entry in settings["logger"].items():
        extra = wandb_arguments(settings, folder) if name == "wandb" else {}
        loggers.append(instantiate(entry, save_dir=str(folder), **extra))
    for logger in loggers[1:]:
        logger.log_hyperparams(settings)
    return loggers


def _trainer(settings: dict[str, Any], folder: Path, loggers: list[Logger]) -> L.Trainer:
    strategy: SearchStrategy = instantiate(settings["strategy"], _convert_="all")
    keep = ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best",
        monitor="val/score",
        mode="max",
        enable_version_counter=False,
    )
    # Lightning's save_last skips epochs that are no better, which a resumed run would then repeat.
    keep_last = ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="last", enable_version_counter=False
    )
    # Showing the loss makes a GPU wait, so not at every step.
    progress = (RichProgressBar if console.is_terminal else TQDMProgressBar)(refresh_rate=20)
    patience = settings["early_stopping"]
    stop = [] if patience is None else [EarlyStopping("val/score", mode="max", patience=patience)]
    return instantiate(
        settings["trainer"],
        max_epochs=settings["epochs"],
        logger=loggers,
        callbacks=[
            strategy,
            KeepConfig(settings),
            ArchitectureMonitor(folder),
            ThroughputMonitor(),
            keep,
            keep_last,
            *stop,
            progress,
        ],
        # The sampler shares out the data itself, and numbers the epochs of its draws.
        use_distributed_sampler=False,
        default_root_dir=str(folder),
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

"""The trainer of a run, with callbacks, loggers and compiled steps, and how it is called."""

from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from pnfs.data.module import PoseDataModule
from pnfs.runs.metrics_file import put_together, set_aside
from pnfs.runs.state import LAST_CHECKPOINT
from pnfs.runs.wandb_run import wandb_arguments
from pnfs.search import SearchStrategy
from pnfs.training.callbacks import ArchitectureMonitor, TrainingSpeed
from pnfs.training.checkpoints import KeepConfig, read_checkpoint
from pnfs.training.keeping import KeepBest, KeepLast, StopEarly
from pnfs.training.memory import keep_freed_memory
from pnfs.training.module import PoseModule

console = Console()


def build_loggers(settings: dict[str, Any], folder: Path) -> list[Logger]:
    """CSV always, and what the logger group names."""
    loggers: list[Logger] = [CSVLogger(folder, name="", version="")]
    for name, entry in settings["logger"].items():
        extra = wandb_arguments(settings, folder) if name == "wandb" else {}
        loggers.append(instantiate(entry, save_dir=str(folder), **extra))
    for logger in loggers[1:]:
        logger.log_hyperparams(settings)
    return loggers


def build_trainer(
    settings: dict[str, Any], folder: Path, loggers: list[Logger], identity: dict[str, Any]
) -> L.Trainer:
    strategy: SearchStrategy = instantiate(settings["strategy"], _convert_="all")
    # Showing the loss makes a GPU wait, so not at every step.
    progress = (RichProgressBar if console.is_terminal else TQDMProgressBar)(refresh_rate=20)
    patience = settings["early_stopping"]
    return instantiate(
        settings["trainer"],
        max_epochs=settings["epochs"],
        logger=loggers,
        callbacks=[
            strategy,
            KeepConfig(settings, identity),
            ArchitectureMonitor(folder),
            TrainingSpeed(),
            KeepBest(folder / "checkpoints"),
            KeepLast(folder / "checkpoints"),
            *([] if patience is None else [StopEarly(patience)]),
            progress,
        ],
        # The sampler shares out the data itself, and numbers the epochs of its draws.
        use_distributed_sampler=False,
        default_root_dir=str(folder),
    )


def compile_steps(module: PoseModule, settings: dict[str, Any]) -> None:
    """Compiles the training steps if that is asked for and possible."""
    mode = settings["acceleration"]["compile"]
    if mode is None:
        return
    strategy = get_class(settings["strategy"]["_target_"])
    if not getattr(strategy, "compilable", True):
        console.print(f"the steps of {strategy.__name__} cannot be compiled; they run eagerly")
        return
    console.print("the first steps compile the network, which takes a minute or two")
    module.compile_training(mode)


def fit(
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
        module.network.calibrate(data.first_batch()["image"])
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


def what_is_left(settings: dict[str, Any], folder: Path) -> str:
    """What a run that was stopped has trained, and how to continue."""
    last, epochs = folder / LAST_CHECKPOINT, settings["epochs"]
    done = read_checkpoint(last, builds=())["epoch"] + 1 if last.is_file() else 0
    steps = settings["trainer"].get("max_steps", -1)
    advice = (
        "the same command resumes it"
        if steps in (None, -1)
        else f"trainer.max_steps={steps} ends it there; without that key, epochs={epochs} is another run"
    )
    return f"{folder}: not finished, {done} of {epochs} epochs are trained and nothing is scored; {advice}"

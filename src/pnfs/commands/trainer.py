"""The trainer of a run: its callbacks, its loggers, its compiled steps."""

from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from rich.console import Console

from pnfs.search import SearchStrategy
from pnfs.training.checkpoints import KeepConfig
from pnfs.training.keeping import KeepBest, KeepLast, StopEarly
from pnfs.training.module import PoseModule
from pnfs.training.monitors import ArchitectureMonitor
from pnfs.training.throughput import ThroughputMonitor
from pnfs.training.wandb_run import wandb_arguments

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
            ThroughputMonitor(),
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

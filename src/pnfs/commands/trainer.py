"""The trainer of a run, as its groups describe it, and how it is called."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only

from pnfs.commands.configuration import UsageError
from pnfs.data.module import PoseDataModule
from pnfs.runs.metrics_file import put_together, set_aside
from pnfs.runs.state import LAST_CHECKPOINT
from pnfs.training.checkpoint_io import damage
from pnfs.training.checkpoints import CheckpointError, KeepConfig, find_checkpoint, read_checkpoint
from pnfs.training.memory import keep_freed_memory
from pnfs.training.module import PoseModule

log = logging.getLogger(__name__)


def build_loggers(settings: Mapping[str, Any]) -> list[Logger]:
    """What the group logger names; none with trainer.logger=false. (With fast_dev_run Lightning silences them.)"""
    trainer = settings["trainer"]
    if trainer.get("logger") is False:
        return []
    loggers = [instantiate(entry) for entry in settings["logger"].values() if entry is not None]
    for logger in [] if trainer.get("fast_dev_run") else loggers:
        if not isinstance(logger, CSVLogger):
            logger.log_hyperparams(dict(settings))
    return loggers


def build_trainer(
    settings: Mapping[str, Any], loggers: list[Logger], identity: Mapping[str, Any]
) -> L.Trainer:
    """The trainer with the callbacks of its own key and of the group; configuration and identity go into
    every checkpoint."""
    trainer = dict(settings["trainer"])
    nodes = [*(settings.get("callbacks") or {}).values(), *(trainer.pop("callbacks", None) or [])]
    callbacks: list[Callback] = [
        instantiate(node, _convert_="all") for node in nodes if node is not None
    ]
    given = trainer.pop("logger", None)
    # Lightning refuses a bar beside enable_progress_bar=false, and learning rates that nobody logs.
    without: list[type[Callback]] = (
        [] if trainer.get("enable_progress_bar", True) else [ProgressBar]
    )
    without += [] if loggers or given else [LearningRateMonitor]
    callbacks = [c for c in callbacks if not isinstance(c, tuple(without))]
    return instantiate(
        trainer,
        logger=loggers if given in (None, True) else given,
        callbacks=[*callbacks, KeepConfig(settings, identity)],
    )


def compile_steps(module: PoseModule, settings: Mapping[str, Any]) -> None:
    """Compiles the training steps if that is asked for and possible."""
    mode = settings["acceleration"]["compile"]
    if mode is None:
        return
    strategy = get_class(settings["strategy"]["_target_"])
    if not getattr(strategy, "compilable", True):
        log.info("the steps of %s cannot be compiled; they run eagerly", strategy.__name__)
        return
    log.info("the first steps compile the network, which takes a minute or two")
    module.compile_training(mode)


def starting_point(settings: Mapping[str, Any], folder: Path) -> Path | None:
    """The checkpoint that training continues from: the run's own, or that of `ckpt_path`."""
    if (folder / LAST_CHECKPOINT).is_file():
        return newest_whole(folder)
    return None if settings["ckpt_path"] is None else find_last(settings["ckpt_path"])


def newest_whole(folder: Path) -> Path:
    """The newest checkpoint of a run's folder that is not damaged.

    Raises:
        CheckpointError: There is none.
    """
    last = folder / LAST_CHECKPOINT
    for name in (last.name, "previous.ckpt"):
        path = last.with_name(name)
        if path.is_file() and damage(path) is None:
            if path != last:
                log.warning("%s is damaged: training goes on from %s in its place", last, name)
            return path
    raise CheckpointError(f"{last}: damaged, like the one before it; restart=true trains anew")


def find_last(path: str) -> Path:
    """A checkpoint, or the last one of a run's folder."""
    last = Path(path).expanduser() / LAST_CHECKPOINT
    return last if last.is_file() else find_checkpoint(path)


def fit(
    settings: Mapping[str, Any],
    module: PoseModule,
    data: PoseDataModule,
    loggers: list[Logger],
    identity: Mapping[str, Any],
) -> None:
    """Trains from the beginning, or from where an earlier start of the same run was stopped.

    Raises:
        KeyboardInterrupt: Ctrl-C; Lightning has ended its work.
    """
    folder = Path(settings["run_dir"])
    start = starting_point(settings, folder)
    if start is not None:
        finished = read_checkpoint(start, builds=())["epoch"] + 1
        log.info("resuming after epoch %d of %s", finished, settings["trainer"]["max_epochs"])
        rank_zero_only(set_aside)(folder, finished)
    elif settings["initial"] is not None:
        load_initial(module, settings)
    else:
        module.network.calibrate(data.first_batch()["image"])
    if settings["acceleration"]["keep_memory"]:
        keep_freed_memory()
    compile_steps(module, settings)
    trainer = build_trainer(settings, loggers, identity)
    ckpt = None if start is None else str(start)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    except SystemExit as error:
        if error.code == 1:  # What Lightning makes of Ctrl-C.
            raise KeyboardInterrupt from None
        raise
    finally:
        rank_zero_only(put_together)(folder)


def load_initial(module: PoseModule, settings: Mapping[str, Any]) -> None:
    """Loads the weights that `initial` names.

    Raises:
        UsageError: They are those of another network.
    """
    checkpoint = read_checkpoint(settings["initial"], builds=())
    try:
        module.load_weights(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UsageError(
            f"initial={settings['initial']} holds another network than `model` describes; experiment=finetune "
            f"takes the checkpoint's own ({str(error).splitlines()[0]})"
        ) from error


def what_is_left(settings: Mapping[str, Any], folder: Path) -> str:
    """What a run that was stopped has trained, and how to continue."""
    last, epochs = folder / LAST_CHECKPOINT, settings["trainer"]["max_epochs"]
    done = read_checkpoint(newest_whole(folder), builds=())["epoch"] + 1 if last.is_file() else 0
    steps = settings["trainer"].get("max_steps", -1)
    advice = (
        "the same command resumes it"
        if steps in (None, -1)
        else f"trainer.max_steps={steps} ends it there; without that key, epochs={epochs} is another run"
    )
    return f"{folder}: not finished, {done} of {epochs} epochs are trained and nothing is scored; {advice}"

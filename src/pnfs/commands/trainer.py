"""What a training needs, looked at first; the trainer, as its groups describe it; and the training itself."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import get_class, instantiate
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only

from pnfs.commands.configuration import UsageError
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import UNLABELLED
from pnfs.runs.state import LAST_CHECKPOINT, put_together, set_aside
from pnfs.training import checkpoints
from pnfs.training.checkpoints import KeepConfig, find_checkpoint, read_checkpoint
from pnfs.training.module import PoseModule, keep_freed_memory

log = logging.getLogger(__name__)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses what no training can be made of, before data are read or caches written."""
    trainer = settings["trainer"]
    if "_target_" not in settings["dataset"]:
        raise UsageError("dataset=of_checkpoint is no dataset to train on; choose one by name")
    if trainer.get("max_epochs") is None:
        raise UsageError("trainer.max_epochs is not set: begin your file with `defaults: [auto, _self_]`")
    if settings["initial"] is not None and settings["ckpt_path"] is not None:
        raise UsageError("initial and ckpt_path: training starts from one of them")
    mixed = str(trainer.get("precision")).endswith("mixed")
    if mixed and trainer.get("gradient_clip_val") and settings["optimizer"].get("fused"):
        raise UsageError(
            f"trainer.gradient_clip_val with trainer.precision={trainer['precision']}: Lightning clips no "
            "gradients of a fused optimiser; add acceleration.fused_optimizer=false"
        )
    gpus, devices = torch.cuda.device_count(), trainer.get("devices", 1)
    wanted = int(devices) if str(devices).isdigit() else 1
    wanted = max(devices) + 1 if isinstance(devices, list) else wanted
    there = gpus >= wanted or (gpus == 0 and MPSAccelerator.is_available())
    if trainer.get("accelerator") in ("gpu", "cuda") and not there:
        raise UsageError(
            f"trainer.accelerator={trainer['accelerator']} trainer.devices={devices}: this machine has "
            f"{gpus} GPUs; trainer=cpu runs without"
        )


def require_labels(source: PoseDataset) -> None:
    """Refuses a split without any label: nothing could be learnt from it, and no epoch scored by it."""
    for split in ("train", "val"):
        # A detector's boxes have no labels.
        persons = source.in_labelled_boxes().persons(split)
        if not (persons.visibility > UNLABELLED).any():
            raise UsageError(
                f"{persons.name}: no person of split {split!r} has a labelled joint, so that nothing could be "
                "trained or scored; choose a dataset with labels in both of train and val"
            )


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


def build_trainer(settings: Mapping[str, Any], loggers: list[Logger], identity: Mapping[str, Any]) -> L.Trainer:
    """The trainer with the callbacks of its own key and of the group; configuration and identity go into
    every checkpoint."""
    trainer = dict(settings["trainer"])
    nodes = [*(settings.get("callbacks") or {}).values(), *(trainer.pop("callbacks", None) or [])]
    callbacks: list[Callback] = [instantiate(node, _convert_="all") for node in nodes if node]
    given = trainer.pop("logger", None)
    # Lightning refuses a bar beside enable_progress_bar=false, and learning rates that nobody logs.
    unwanted: tuple[type[Callback], ...] = ()
    if not trainer.get("enable_progress_bar", True):
        unwanted += (ProgressBar,)
    if not (loggers or given):
        unwanted += (LearningRateMonitor,)
    kept = [callback for callback in callbacks if not isinstance(callback, unwanted)]
    return instantiate(
        trainer,
        logger=loggers if given in (None, True) else given,
        callbacks=[*kept, KeepConfig(settings, identity)],
    )


def fit(
    settings: Mapping[str, Any],
    module: PoseModule,
    data: PoseDataModule,
    loggers: list[Logger],
    identity: Mapping[str, Any],
) -> None:
    """Trains from the beginning, or from where an earlier start of the same run was stopped."""
    folder, start = Path(settings["run_dir"]), None
    if (folder / LAST_CHECKPOINT).is_file():
        start = newest_whole(folder)
    elif settings["ckpt_path"] is not None:
        last = Path(settings["ckpt_path"]).expanduser() / LAST_CHECKPOINT
        start = last if last.is_file() else find_checkpoint(settings["ckpt_path"])
    if start is not None:
        finished = read_checkpoint(start, builds=())["epoch"] + 1
        log.info("resuming after epoch %d of %s", finished, settings["trainer"]["max_epochs"])
        rank_zero_only(set_aside)(folder, finished)
    elif settings["initial"] is not None:
        load_initial(module, settings["initial"])
    else:
        module.network.calibrate(data.first_batch()["image"])
    if settings["acceleration"]["keep_memory"]:
        keep_freed_memory()
    compile_steps(module, settings)
    trainer = build_trainer(settings, loggers, identity)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    except SystemExit as error:
        if error.code == 1:  # What Lightning makes of Ctrl-C.
            raise KeyboardInterrupt from None
        raise
    finally:
        rank_zero_only(put_together)(folder)


def newest_whole(folder: Path) -> Path:
    """The newest checkpoint of a run's folder that is not damaged; a `CheckpointError` if there is none."""
    last = folder / LAST_CHECKPOINT
    for path in (last, last.with_name("previous.ckpt")):
        if path.is_file() and checkpoints.damage(path) is None:
            if path != last:
                log.warning("%s is damaged: training goes on from %s in its place", last, path.name)
            return path
    raise checkpoints.CheckpointError(f"{last}: damaged, like the one before it; restart=true trains anew")


def load_initial(module: PoseModule, path: str) -> None:
    """Loads the weights that `initial` names."""
    content = read_checkpoint(path, builds=())
    try:
        checkpoints.load_network_state(module.network, content, path)
    except checkpoints.CheckpointError as error:
        raise UsageError(
            f"initial={path} holds another network than `model` describes; experiment=finetune takes the "
            f"checkpoint's own ({str(error).splitlines()[0]})"
        ) from error


def compile_steps(module: PoseModule, settings: Mapping[str, Any]) -> None:
    """Compiles the training steps if that is asked for and possible."""
    mode = settings["acceleration"]["compile"]
    strategy = get_class(settings["strategy"]["_target_"])
    if mode is None:
        return
    if not getattr(strategy, "compilable", True):
        log.info("the steps of %s cannot be compiled; they run eagerly", strategy.__name__)
        return
    log.info("the first steps compile the network, which takes a minute or two")
    module.compile_training(mode)

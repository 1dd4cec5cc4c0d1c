"""What `pnfs train` refuses before it trains: settings that do not go together, a start that does not fit."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pnfs.commands.configuration import UsageError, known_keys
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.persons import UNLABELLED
from pnfs.files import checkpoint_at
from pnfs.runs.identity import differing
from pnfs.training import checkpoints


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses what no training can be made of, before data are read or caches written."""
    trainer = settings["trainer"]
    if "_target_" not in settings["dataset"]:
        raise UsageError("dataset=of_checkpoint is no dataset to train on; choose one by name")
    if trainer.get("max_epochs") is None:
        raise UsageError("trainer.max_epochs is not set: begin your file with `defaults: [auto, _self_]`")
    if settings["initial"] is not None and settings["ckpt_path"] is not None:
        raise UsageError("initial and ckpt_path: training starts from one of them")
    if settings["ckpt_path"] is not None:
        named_start(settings)
    callbacks = settings.get("callbacks") or {}
    lacks = [name for name in ("strategy", "best", "last") if name not in callbacks]
    if lacks or callbacks["strategy"] != settings["strategy"]:
        key = (lacks or ["strategy"])[0]
        raise UsageError(f"callbacks.{key}: training needs the default one: begin with callbacks=[default,...]")
    if settings["loss"].get("maps") == "joints" and settings["model"].get("overlap") == "mean":
        raise UsageError("model.overlap=mean: variant=posenfs trains the sum of overlapping maps; leave it at sum")
    epochs, warmup = trainer["max_epochs"], settings["strategy"].get("warmup_epochs") or 0
    if warmup >= epochs > 0:
        raise UsageError(f"strategy.warmup_epochs={warmup}: alpha and beta would never learn in {epochs} epochs")
    lr, peak = settings["optimizer"].get("lr"), settings["schedule"].get("peak")
    if peak is not None and lr not in (None, known_keys("train")["optimizer.lr"]):
        raise UsageError(f"optimizer.lr={lr}: schedule=one_cycle has its own learning rate, schedule.peak={peak}")
    if trainer.get("sync_batchnorm"):
        raise UsageError("trainer.sync_batchnorm=true: fabrics keep statistics of their own; leave it")
    bilevel = ("pnfs.search.FirstOrder", "pnfs.search.SecondOrder")
    if trainer.get("overfit_batches") and settings["strategy"]["_target_"] in bilevel:
        raise UsageError("trainer.overfit_batches: it does not split the persons as first_order, second_order do")
    mixed = str(trainer.get("precision")).endswith("mixed")
    if mixed and trainer.get("gradient_clip_val") and settings["optimizer"].get("fused"):
        raise UsageError(
            f"trainer.gradient_clip_val with trainer.precision={trainer['precision']}: Lightning clips no "
            "gradients of a fused optimiser; add acceleration.fused_optimizer=false"
        )
    _check_devices(trainer)


def _check_devices(trainer: Mapping[str, Any]) -> None:
    gpus, devices = torch.accelerator.device_count(), trainer.get("devices", 1)
    if "PNFS_GPUS" in os.environ and trainer.get("accelerator") != "cpu" and devices in ("auto", "-1", -1):
        # Its folder was named, by the GPUs of the whole machine, before the job had one of them.
        raise UsageError(f"trainer.devices={devices}: hydra/launcher=joblib_gpus gives a job one GPU; say 1")
    wanted = max(devices, default=0) + 1 if isinstance(devices, list) else 1
    if not isinstance(devices, list) and str(devices) not in ("auto", "-1"):
        if not str(devices).isdigit() or int(devices) < 1:
            raise UsageError(f"trainer.devices={devices}: must be a number, auto, -1, or a list such as [0,1]")
        wanted = int(devices)
    if trainer.get("accelerator") in ("gpu", "cuda") and gpus < wanted:
        raise UsageError(
            f"trainer.accelerator={trainer['accelerator']} trainer.devices={devices}: this machine has "
            f"{gpus} GPUs; trainer=cpu runs without"
        )


def named_start(settings: Mapping[str, Any]) -> Path:
    """The checkpoint of `ckpt_path`, from which a training with these settings can go on."""
    named, epochs = settings["ckpt_path"], settings["trainer"]["max_epochs"]
    path = checkpoint_at(named, last_first=True) or checkpoints.find_checkpoint(named)
    content = checkpoints.read_checkpoint(path, builds=())
    if not {"loops", "optimizer_states"} <= content.keys():
        raise UsageError(f"ckpt_path={named}: holds weights alone; initial={named} starts a training from them")
    if not content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]:
        raise UsageError(f"ckpt_path={named}: was saved within an epoch; name a last.ckpt, or the run's folder")
    if content["epoch"] + 1 >= epochs > 0:
        raise UsageError(f"ckpt_path={named}: {content['epoch'] + 1} epochs are behind it; set epochs to more")
    # Compared as text: nothing that a foreign checkpoint names is imported. Weights come from it in any case.
    both = (
        {key: of.get(key) for key in ("model", "strategy")} for of in (content[checkpoints.CONFIG_KEY], settings)
    )
    if found := [key for key in differing(*both) if not key.endswith(".weights")]:
        raise UsageError(
            f"ckpt_path={named}: its training had another network or strategy ({', '.join(found)}); "
            f"initial={named} starts a new training from its weights"
        )
    return path


def require_labels(dataset: PoseDataset) -> None:
    """Refuses a dataset of which nothing could be learned or scored."""
    for split in ("train", "val"):
        if not (dataset.persons(split).visibility > UNLABELLED).any():
            raise UsageError(
                f"{dataset.persons(split).name}: no person of split {split!r} has a labelled joint; choose a "
                "dataset with labels in both of train and val"
            )

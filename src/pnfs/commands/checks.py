"""What a training needs, looked at before anything is built."""

from typing import Any

import torch
from lightning.pytorch.accelerators import MPSAccelerator

from pnfs.commands.configuration import UsageError
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.persons import UNLABELLED
from pnfs.data.predictions import no_predictions


def check_settings(settings: dict[str, Any]) -> None:
    """Refuses what no training can be made of, before data are read or caches written.

    Raises:
        UsageError: Names the key.
    """
    if "_target_" not in settings["dataset"]:
        raise UsageError(
            "dataset=of_checkpoint is for commands that read a checkpoint; choose a dataset to train on"
        )
    trainer = settings["trainer"]
    if trainer.get("max_epochs") is None:
        raise UsageError(
            "trainer.max_epochs is not set: a trainer file of your own begins with `defaults: [auto, _self_]`"
        )
    if settings["initial"] is not None and settings["ckpt_path"] is not None:
        raise UsageError("initial and ckpt_path: training starts from one of them")
    mixed = str(trainer.get("precision")).endswith("mixed")
    if mixed and trainer.get("gradient_clip_val") and settings["optimizer"].get("fused"):
        raise UsageError(
            f"trainer.gradient_clip_val with trainer.precision={trainer['precision']}: Lightning clips no "
            "gradients of a fused optimiser; add acceleration.fused_optimizer=false"
        )
    if trainer.get("accelerator") in ("gpu", "cuda"):
        gpus, devices = torch.cuda.device_count(), trainer.get("devices", 1)
        wanted = (
            max(devices) + 1
            if isinstance(devices, list)
            else int(devices)
            if str(devices).isdigit()
            else 1
        )
        if wanted > gpus and not (gpus == 0 and MPSAccelerator.is_available()):
            raise UsageError(
                f"trainer.accelerator={trainer['accelerator']} trainer.devices={devices}: this machine has "
                f"{gpus} GPUs; trainer=cpu runs without"
            )


def require_labels(source: PoseDataset) -> None:
    """Refuses a split without any label: nothing could be learnt from it, and no epoch scored by it.

    Raises:
        UsageError: Names the dataset and the split.
    """
    for split in ("train", "val"):
        persons = source.persons(split)
        visibility = persons.visibility
        if split == "val":
            # Of detected boxes the labels lie elsewhere.
            visibility = source.matches(split, no_predictions(persons)).labels.visibility
        if not (visibility > UNLABELLED).any():
            raise UsageError(
                f"{persons.name}: no person of split {split!r} has a labelled joint, so that nothing could be "
                "trained or scored; choose a dataset with labels in both of train and val"
            )

"""What a training needs, looked at before anything is built."""

from typing import Any

from pnfs.commands.configuration import UsageError
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.persons import UNLABELLED
from pnfs.data.predictions import no_predictions

# Keys of the trainer that `pnfs train` sets itself, and what to use in their place.
_OWN_TRAINER_KEYS = {
    "max_epochs": "epochs",
    "logger": "the group logger",
    "callbacks": "early_stopping, strategy",
    "default_root_dir": "run_root, name",
    "use_distributed_sampler": "nothing: persons are shared out among the processes in any case",
    "enable_checkpointing": "nothing: the best and the last epoch are always kept",
}


def require_free_keys(trainer: Any) -> None:
    """Refuses keys of the trainer that this command sets itself.

    Raises:
        UsageError: Names the key, and what to use.
    """
    for key, instead in _OWN_TRAINER_KEYS.items():
        if key in trainer:
            raise UsageError(f"trainer.{key} is set by `pnfs train` itself; use {instead}")


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

"""What a training needs, looked at before anything is built."""

from typing import Any

from pnfs.commands.configuration import UsageError
from pnfs.commands.scoring import matches_of
from pnfs.data.module import Source
from pnfs.data.persons import UNLABELLED
from pnfs.data.predictions import no_predictions


def check_settings(settings: dict[str, Any]) -> None:
    if "_target_" not in settings["dataset"]:
        raise UsageError(
            "dataset=of_checkpoint is for commands that read a checkpoint; choose a dataset to train on"
        )


def require_labels(source: Source) -> None:
    """Refuses a split without any label: nothing could be learnt from it, and no epoch scored by it.

    Raises:
        UsageError: Names the dataset and the split.
    """
    for split in ("train", "val"):
        persons = source.persons(split)
        visibility = persons.visibility
        if split == "val":
            # Of detected boxes the labels lie elsewhere.
            visibility = matches_of(source, split, no_predictions(persons)).labels.visibility
        if not (visibility > UNLABELLED).any():
            raise UsageError(
                f"{persons.name}: no person of split {split!r} has a labelled joint, so that nothing could be "
                "trained or scored; choose a dataset with labels in both of train and val"
            )

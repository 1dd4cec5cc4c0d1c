"""A run's counterpart at Weights & Biases: its identity, its results, and how it ended."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, WandbLogger

WANDB_ID = "wandb_id.txt"
_FAILED = 1
_INTERRUPTED = 130
"""As a shell reports a command that Ctrl-C ended."""


def wandb_arguments(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a `WandbLogger` is given besides what the configuration says.

    Args:
        settings: The resolved configuration.
        folder: The run's folder.

    Returns:
        id (kept in the folder, so that a resumed run continues its own), name, group (the experiment),
        job_type, tags (parts, backbone or baseline, strategy, dataset) and resume.
    """
    return {
        "id": _run_id(folder),
        "name": f"{settings['name']}/{folder.name}",
        "group": str(settings["name"]),
        "job_type": "train",
        "tags": run_tags(settings),
        "resume": "allow",
    }


def _run_id(folder: Path) -> str:
    """The folder's name alone would not do: equal runs of two experiments, and a run that is trained again
    from the start, share it."""
    # Other processes of a distributed run log nothing.
    if getattr(rank_zero_only, "rank", 0):
        return folder.name
    path = folder / WANDB_ID
    kept = path.read_text().strip() if path.is_file() else ""
    if not kept:
        kept = f"{folder.name}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{kept}\n")
    return kept


def run_tags(settings: Mapping[str, Any]) -> list[str]:
    """Parts, backbone or baseline, strategy and dataset, by which one picks runs."""
    model = settings["model"]
    tags = [f"P={len(model['parts'])}"] if model.get("parts") else []
    classes = (
        model.get("backbone") or model,
        settings["strategy"],
        settings["dataset"],
    )
    return tags + [str(node["_target_"]).rsplit(".", 1)[-1] for node in classes]


@contextmanager
def finished_wandb(loggers: Sequence[Logger]) -> Iterator[None]:
    """Ends the run with the block, so that the next job of a sweep does not continue it.

    The run's exit code is 0, 1 if the block raised, or 130 if it was interrupted.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
        _finish(loggers, _INTERRUPTED if stopped else _FAILED)
        raise
    _finish(loggers, 0)


def _finish(loggers: Sequence[Logger], exit_code: int) -> None:
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        import wandb  # An extra, not always installed.

        wandb.finish(exit_code=exit_code)


@rank_zero_only
def log_summary(loggers: Sequence[Logger], record: Mapping[str, Any]) -> None:
    """Writes a run's results into the columns of the project's table.

    Args:
        loggers: Others than Weights & Biases are passed over.
        record: Record of the finished run, as `result.json` holds it.
    """
    summary = {
        "final/score": record["score"],
        **{f"final/{name}": value for name, value in record["scores"].items()},
        **{f"cost/{name}": value for name, value in record["cost"].items()},
        "best_epoch": record["evaluated_with"]["best_epoch"],
        "seconds": record["seconds"],
        "device": record["device"],
        "git_revision": record["git_revision"],
    }
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(summary)

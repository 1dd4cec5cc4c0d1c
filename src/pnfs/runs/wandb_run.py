"""A run's counterpart at Weights & Biases: its identity, its results, and how it ended."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, WandbLogger

from pnfs.files import write_whole

WANDB_ID = "wandb_id.txt"


class RunLogger(WandbLogger):
    """Lightning's logger, with an id that a resumed run keeps, and metrics compared by epoch and best score.

    `save_dir` is the run's folder, which keeps the id; `artifacts` uploads best.ckpt and result.json at the end.
    """

    def __init__(self, *, save_dir: str, artifacts: bool = False, **arguments: Any) -> None:
        folder, path = Path(save_dir), Path(save_dir) / WANDB_ID
        # The folder's name alone would not do: equal runs of two experiments share it, as does one trained anew.
        kept = path.read_text().strip() if path.is_file() else f"{folder.name}-{secrets.token_hex(4)}"
        if not getattr(rank_zero_only, "rank", 0):  # Other processes of a distributed run log nothing.
            write_whole(path, f"{kept}\n")
        super().__init__(save_dir=save_dir, id=kept, resume="allow", **arguments)
        self.artifacts = artifacts

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        super().log_hyperparams(params)
        for metrics in ("val/*", "train/*", "architecture/*"):
            self.experiment.define_metric(metrics, step_metric="epoch")
        self.experiment.define_metric("val/score", step_metric="epoch", summary="max")

    @rank_zero_only
    def log_record(self, record: Mapping[str, Any], folder: Path) -> None:
        """Writes a finished run's results into the columns of the project's table."""
        columns = {name: record[name] for name in ("seconds", "device", "git_revision")}
        columns |= {"best_epoch": record["evaluated_with"]["best_epoch"]}
        columns |= {f"cost/{name}": value for name, value in record["cost"].items()}
        columns |= {f"final/{name}": value for name, value in record["scores"].items()}
        self.experiment.summary.update(columns | {"final/score": record["score"]})
        for path in ("checkpoints/best.ckpt", "result.json") if self.artifacts else ():
            name = f"{folder.name}-{Path(path).stem}"
            self.experiment.log_artifact(str(folder / path), name=name, type="run")


@contextmanager
def finished_wandb(loggers: Sequence[Logger]) -> Iterator[None]:
    """Ends the run with the block, so that the next job of a sweep does not continue it.

    The run's exit code is 0, 1 if the block raised, or 130 if it was interrupted.
    """
    exit_code = 1
    try:
        yield
        exit_code = 0
    except (KeyboardInterrupt, SystemExit):
        exit_code = 130
        raise
    finally:
        if any(isinstance(logger, WandbLogger) for logger in loggers):
            import wandb  # An extra, not always installed.

            wandb.finish(exit_code=exit_code)

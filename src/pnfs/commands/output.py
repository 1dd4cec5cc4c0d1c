"""What goes to the terminal: not what libraries chat, and not into a pipe whose reader has gone."""

import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

_UNASKED = (
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    # What was logged before is set aside and put together again; a resumed run has its own checkpoints.
    ".*is not empty. Previous log files.*",
    "Checkpoint directory .* exists and is not empty.*",
    # What is logged once an epoch is equal in all processes already.
    ".*sync_dist=True.* when logging on epoch level.*",
)


def quiet_libraries() -> None:
    """Leaves the terminal to what the user asked for; warnings and errors still show."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The report that was asked for with trainer.profiler=....
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    for message in _UNASKED:
        warnings.filterwarnings("ignore", message=message)


def log_to(file: Path) -> None:
    """Logging for a process that Hydra has not started: as conf/hydra/job_logging/pnfs.yaml says."""
    console, kept = logging.StreamHandler(sys.stdout), logging.FileHandler(file)
    kept.setFormatter(logging.Formatter("[%(asctime)s][%(levelname)s] %(message)s"))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[console, kept])
    logging.getLogger("pnfs").setLevel(logging.INFO)


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(data)


def outlive_reader() -> None:
    """Lets `pnfs evaluate ... | head -1` come to its end, and keep its result, after `head` has gone."""
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        plain = sys.stdout
        raw = _Output(plain.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=plain.encoding,
            errors=plain.errors,
            line_buffering=plain.line_buffering,
        )

"""What libraries print that a user of the command line need not read."""

import logging
import sys
import warnings
from pathlib import Path


def quiet_libraries() -> None:
    """Leaves the terminal to what the user asked for; warnings and errors still show."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The report that was asked for with trainer.profiler=....
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # What was logged before is set aside and put together again.
    warnings.filterwarnings("ignore", message=".*is not empty. Previous log files.*")
    # A resumed run has its own.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    # What is logged once an epoch is equal in all processes already.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.* when logging on epoch level.*")


def log_to(file: Path) -> None:
    """Logging for a process that Hydra has not started: as conf/hydra/job_logging/pnfs.yaml says."""
    console, kept = logging.StreamHandler(sys.stdout), logging.FileHandler(file)
    kept.setFormatter(logging.Formatter("[%(asctime)s][%(levelname)s] %(message)s"))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[console, kept])
    logging.getLogger("pnfs").setLevel(logging.INFO)

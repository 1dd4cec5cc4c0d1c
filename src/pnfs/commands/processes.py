"""The processes that commands run in: what they print, which GPU they see, and several of them for one run (DDP).

Imports nothing heavy: the list of commands comes at once.
"""

import functools
import getpass
import io
import logging
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pnfs.errors import PnfsError

# --- what is printed

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
        raw = io.BufferedWriter(_Output(sys.stdout.fileno(), "w", closefd=False))
        like = {name: getattr(sys.stdout, name) for name in ("encoding", "errors", "line_buffering")}
        sys.stdout = io.TextIOWrapper(raw, **like)


# --- a GPU of its own for each job of a sweep


@functools.cache
def take_gpu_if_asked() -> FileLock | None:
    """Where PNFS_GPUS says how many GPUs jobs share out (`hydra/launcher=joblib_gpus` sets it), lets this process
    see the first free one only, whichever jobs it runs; before anything else looks for one.

    Not by the job's number: a process cannot change its GPU once it has used one, and jobs of unequal length would
    meet on one GPU while another is idle.
    """
    asked, visible = os.environ.get("PNFS_GPUS"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return None
    count = int(asked) if asked.isdigit() else 0
    gpus = list(map(str, range(count or 1))) if visible is None else visible.replace(" ", "").split(",")
    if not 1 <= count <= len(gpus):
        raise PnfsError(
            f"{asked} jobs with a GPU each, CUDA_VISIBLE_DEVICES={visible}: say how many GPUs the jobs share out, "
            f"such as hydra.launcher.n_jobs={len(gpus)}"
        )
    folder = Path(tempfile.gettempdir()) / f"pnfs-gpus-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    locks = {gpu: FileLock(folder / f"{gpu}.lock") for gpu in gpus[:count]}
    while True:
        for gpu, lock in locks.items():
            with suppress(Timeout):
                lock.acquire(timeout=0)
                os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu}
                return lock
        time.sleep(1.0)  # Another sweep of the same user has them.


# --- several processes for one run
#
# PyTorch's elastic launcher starts one function with the same resolved configuration in each. Lightning's own
# launcher would start the command line again: under --multirun the whole sweep, in ranks that might disagree.


def process_count(trainer: Mapping[str, Any]) -> int:
    """How many processes a trainer's configuration asks for."""
    if trainer.get("num_nodes", 1) != 1:
        raise PnfsError("trainer.num_nodes: a run uses the devices of one machine only")
    world = (os.environ.get("WORLD_SIZE", "1"), os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if any(size.isdigit() and int(size) > 1 for size in world):  # torchrun, srun with several tasks.
        raise PnfsError("started as one of several processes: start `pnfs train` once, with trainer.devices=N")
    from pnfs.runs.identity import devices_of

    devices = devices_of(trainer)
    return len(devices) if isinstance(devices, list) else int(devices)


def run_in_processes(
    function: Callable[..., None], arguments: Mapping[str, Any], count: int, folder: Path
) -> None:
    """Calls `function(**arguments)`, plain data, in `count` new processes, and waits for all.

    The run's `folder` takes the log, and in `ranks` what all processes but the first print. Where one fails, or is
    killed, the others are stopped and a `PnfsError` names it.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logs = folder / "ranks"
    logs.mkdir(parents=True, exist_ok=True)
    # The first process speaks for all.
    printed = DefaultLogsSpecs(str(logs), redirects=dict.fromkeys(range(1, count), Std.ALL))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0, logs_specs=printed,
    )  # fmt: skip
    try:
        elastic_launch(config, _call)(function, dict(arguments), folder)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        hint = " (often for want of memory)" if failure.exitcode == -9 else ""
        # A dictionary for what Python raised: class, message, and where.
        said: Any = failure.message
        said = said["message"] if isinstance(said, dict) else said
        raise PnfsError(
            f"process {rank} of {count} failed: {said}{hint}; what the others printed is below {logs}"
        ) from None
    except SignalException as error:
        # As shells count: 130 after Ctrl-C, 143 after SIGTERM.
        sys.exit(128 + error.sigval)


def _call(function: Callable[..., None], arguments: Mapping[str, Any], folder: Path) -> None:
    """What each of the processes does."""

    def end_with_the_parent() -> None:  # A killed command must not leave processes that train on.
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    outlive_reader()
    if os.environ["RANK"] == "0":  # As conf/hydra/job_logging/pnfs.yaml says.
        console, kept = logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "train.log")
        kept.setFormatter(logging.Formatter("[%(asctime)s][%(levelname)s] %(message)s"))
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[console, kept])
        logging.getLogger("pnfs").setLevel(logging.INFO)
    quiet_libraries()
    function(**arguments)

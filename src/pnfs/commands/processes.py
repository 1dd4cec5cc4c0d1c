"""A run in several processes of this machine, each with a device of its own (DDP).

PyTorch's elastic launcher starts one function with the same resolved configuration in each of them. Lightning's
own launcher would start the command line again: under --multirun the whole sweep, in ranks that might disagree on
hyperparameters.
"""

import multiprocessing
import os
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pnfs.commands.configuration import UsageError
from pnfs.commands.output import log_to, outlive_reader, quiet_libraries
from pnfs.errors import PnfsError


class ProcessFailed(PnfsError):
    """A process of a run ended early; the message names it and the cause."""


def process_count(trainer: Mapping[str, Any]) -> int:
    """How many processes a trainer's configuration asks for."""
    if trainer.get("num_nodes", 1) != 1:
        raise UsageError("trainer.num_nodes: a run uses the devices of one machine only")
    world = (os.environ.get("WORLD_SIZE", "1"), os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if any(size.isdigit() and int(size) > 1 for size in world):
        raise UsageError(
            "started as one of several processes (torchrun, srun with several tasks): start `pnfs train` "
            "once; with trainer.devices=N it makes its processes itself"
        )
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        return len(devices)
    if devices not in ("auto", "-1", -1):
        return int(devices)
    return 1 if trainer.get("accelerator") == "cpu" else max(1, torch.cuda.device_count())


def run_in_processes(
    function: Callable[..., None], arguments: Mapping[str, Any], count: int, folder: Path
) -> None:
    """Calls `function(**arguments)`, plain data, in `count` new processes, and waits for all.

    The run's `folder` takes the log, and in `ranks` what all processes but the first print.

    Raises:
        ProcessFailed: One of them failed or was killed; the others are stopped.
        SystemExit: Ctrl-C, or a signal that asks to end.
    """
    logs = folder / "ranks"
    logs.mkdir(parents=True, exist_ok=True)
    # The first process speaks for all.
    elsewhere = dict.fromkeys(range(1, count), Std.ALL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=elsewhere),
    )
    try:
        elastic_launch(config, _call)(function, dict(arguments), folder)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        hint = " (often for want of memory)" if failure.exitcode == -9 else ""
        raise ProcessFailed(
            f"process {rank} of {count} failed: {failure.message}{hint}; what the others printed is "
            f"below {logs}"
        ) from None
    except SignalException as error:
        # As shells count: 130 after Ctrl-C, 143 after SIGTERM.
        sys.exit(128 + error.sigval)


def _call(function: Callable[..., None], arguments: Mapping[str, Any], folder: Path) -> None:
    """What each of the processes does."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    outlive_reader()
    if os.environ["RANK"] == "0":
        log_to(folder / "train.log")
    quiet_libraries()
    function(**arguments)


def _end_with_the_parent() -> None:
    """A killed command must not leave processes that train on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""A run in several processes of this machine, each with a device of its own (DDP).

Each process gets the same resolved configuration, as plain data. Lightning's own launcher would start the command
line again in each of them: under --multirun the whole sweep, in ranks that might disagree on hyperparameters.
"""

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pnfs.commands.configuration import UsageError

_PATIENCE = 30.0
"""Seconds that processes get to end by themselves after Ctrl-C or the failure of another."""

_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

# What other launchers tell about ranks of their own.
_FOREIGN = ("SLURM_", "TORCHELASTIC_", "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE")


class ProcessFailed(ValueError):
    """A process of a run ended early; the message names it and the cause."""


def process_count(trainer: Mapping[str, Any]) -> int:
    """How many processes a trainer's configuration asks for.

    Raises:
        UsageError: Several machines, or ranks that another launcher has made already.
    """
    if trainer.get("num_nodes", 1) != 1:
        raise UsageError("trainer.num_nodes: a run uses the devices of one machine only")
    if _is_rank_of_another_launcher():
        raise UsageError(
            "started as one of several processes (torchrun, srun with several tasks): start `pnfs train` "
            "once; with trainer.devices=N it makes its processes itself"
        )
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        return len(devices)
    if devices not in ("auto", "-1", -1):
        return int(devices)
    if trainer.get("accelerator") == "cpu":
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def _is_rank_of_another_launcher() -> bool:
    world = (os.environ.get("WORLD_SIZE", "1"), os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return any(size.isdigit() and int(size) > 1 for size in world)


def run_in_processes(module: str, arguments: Mapping[str, Any], count: int) -> None:
    """Calls `run_as_rank(**arguments)` of a module in `count` new processes, and waits for all.

    Args:
        module: Dotted name.
        arguments: Plain data.
        count: Of the processes.

    Raises:
        ProcessFailed: One of them did not end well; the others are stopped.
        SystemExit: Ctrl-C.
    """
    with tempfile.TemporaryDirectory(prefix="pnfs-") as folder:
        port = _free_port()
        processes = [_start(rank, count, port, module) for rank in range(count)]
        try:
            for rank, process in enumerate(processes):
                job = {"module": module, "arguments": dict(arguments)}
                _send(process, job | {"failure": str(_failure(Path(folder), rank))})
            _wait(processes, Path(folder))
        except KeyboardInterrupt:
            # The terminal has sent it to all; they are ending their epoch's work.
            _end(processes)
            sys.exit(_INTERRUPTED)
        finally:
            _end(processes, patience=0.0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _start(rank: int, count: int, port: int, module: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    environment = kept | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
    }
    # The first speaks for all; of the others only the cause of a failure is heard.
    silent = None if rank == 0 or os.environ.get("PNFS_TRACEBACK") else subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=None if rank == 0 else subprocess.DEVNULL,
        stderr=silent,
        text=True,
    )


def _send(process: subprocess.Popen[str], job: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        # It has ended already, which waiting for it finds out.
        return


def _wait(processes: Sequence[subprocess.Popen[str]], folder: Path) -> None:
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            break
        time.sleep(0.1)
    codes = [process.poll() for process in processes]
    failed = [rank for rank, code in enumerate(codes) if code]
    if not failed:
        return
    if all(codes[rank] == _INTERRUPTED for rank in failed):
        raise KeyboardInterrupt
    _end(processes, patience=1.0)
    total = len(processes)
    killed = [(rank, codes[rank]) for rank in failed if (codes[rank] or 0) < 0]
    if killed:
        rank, code = killed[0]
        raise ProcessFailed(
            f"process {rank} of {total} was ended by signal {-(code or 0)} (9: often for want of memory)"
        )
    # What one process suffers the others soon notice: the earliest is the cause.
    paths = [_failure(folder, rank) for rank in range(total)]
    told = [(p.stat().st_mtime_ns, rank) for rank, p in enumerate(paths) if p.is_file()]
    rank = min(told)[1] if told else failed[0]
    cause = paths[rank].read_text() if told else f"exit code {codes[rank]}"
    raise ProcessFailed(f"process {rank} of {total} failed: {cause}")


def _failure(folder: Path, rank: int) -> Path:
    return folder / f"failure_{rank}.txt"


def _end(processes: Sequence[subprocess.Popen[str]], patience: float = _PATIENCE) -> None:
    deadline = time.monotonic() + patience
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()


def _end_with_the_parent() -> None:
    """A killed command must not leave processes that train on: its end of the pipe closes."""
    sys.stdin.read()
    os._exit(1)


def _work() -> int:
    """What each of the processes does."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    # Not imported above: the command that starts the processes has it, and has its own output.
    from pnfs.commands.main import quiet_libraries

    try:
        run_as_rank = importlib.import_module(job["module"]).run_as_rank
        # After Lightning's import, which would set its loggers to talk again.
        quiet_libraries()
        run_as_rank(**job["arguments"])
    except (KeyboardInterrupt, SystemExit):
        return _INTERRUPTED
    except Exception as error:
        from pnfs.training.records import cause_of

        Path(job["failure"]).write_text(cause_of(error))
        if os.environ.get("PNFS_TRACEBACK"):
            raise
        return 1
    return 0


if __name__ == "__main__":
    code = _work()
    sys.stdout.flush()
    sys.stderr.flush()
    # The thread that waits for the parent holds standard input, which a plain exit would wait for.
    os._exit(code)

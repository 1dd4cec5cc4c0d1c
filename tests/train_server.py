"""Command lines of `pnfs` that can be killed, without the seconds that a new interpreter takes each time.

Started as a program, it imports everything once, and forks a process for each command line that it reads from its
input. Imported, it offers `TrainServer`, which talks to it.
"""

import contextlib
import errno
import itertools
import json
import os
import pkgutil
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

Kill = tuple[str, int, bool]
"""A placed SIGKILL: "module:name" of a function, at which of its calls, before (False) or after it (True)."""


class TrainServer:
    """Runs `pnfs` in forked processes, one at a time; `environment` is added to that of this process."""

    def __init__(self, **environment: str) -> None:
        # As many threads as here: sums depend on it.
        self._environment = {"OMP_NUM_THREADS": str(torch.get_num_threads()), **environment}
        self._running = 0
        self._process = self._serve()

    def _serve(self) -> "subprocess.Popen[str]":
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, __file__], env={**os.environ, **self._environment}, **pipes)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def run(
        self, folder: Path, *arguments: str, blocked: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """`pnfs ARGUMENTS` in a folder; with `blocked`, every connection is refused and noted in that file."""
        files = {name: folder / f"{name}.txt" for name in ("output", "errors")}
        for file in files.values():
            file.write_text("")
        self.start_command(folder, arguments, **files, blocked=blocked)
        status = self.wait()
        texts = [file.read_text() for file in files.values()]
        return subprocess.CompletedProcess([*arguments], status, *texts)

    def start(self, overrides: Sequence[str], log: Path, kill: "Kill | None" = None) -> int:
        """Begins a training; returns its process id."""
        words = ["train", *overrides]
        return self.start_command(log.parent, words, output=log, errors=log, kill=kill)

    def start_command(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        output: Path,
        errors: Path,
        kill: "Kill | None" = None,
        blocked: Path | None = None,
    ) -> int:
        """Begins a command in a process group of its own; returns its process id."""
        if self._running:  # Nobody waited for the one before: its test failed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._running, signal.SIGKILL)
            self._process.kill()
            self._process = self._serve()
        job = {"arguments": arguments, "folder": folder, "output": output, "errors": errors}
        job |= {"kill": kill, "blocked": blocked}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job, default=str) + "\n")
        self._process.stdin.flush()
        self._running = self._answer()
        return self._running

    def wait(self) -> int:
        """Exit status of the command; minus the signal's number if one ended it."""
        status, self._running = self._answer(), 0
        return status

    def train(self, overrides: Sequence[str], log: Path) -> None:
        """A training that nothing interrupts."""
        self.start(overrides, log)
        assert self.wait() == 0, log.read_text()

    def train_with_kills(self, overrides: Sequence[str], root: Path, log: Path, *, kills: int, seed: int) -> Path:
        """The same with SIGKILL at random moments, then one that nothing interrupts; returns the run's folder.

        No start gets further than two epochs before it is killed: choose at least 2 * kills + 2 epochs. `root` is
        the run_root, `log` a file for the output, `seed` that of the moments.
        """
        draw = random.Random(seed)
        for _ in range(kills):
            before = _epochs(root)
            pid = self.start([*overrides, f"run_root={root}"], log)
            began, wanted = time.monotonic(), draw.choice((0, 1, 1, 2))
            # None: anywhere from the first moment on. Else: somewhere in the epoch after that many.
            while _epochs(root) < before + wanted and time.monotonic() < began + 120:
                time.sleep(0.002)
            time.sleep(draw.uniform(0.0, 3.0 if wanted == 0 and before == 0 else 0.5))
            os.killpg(pid, signal.SIGKILL)
            assert self.wait() == -signal.SIGKILL, log.read_text()
        (folder,) = root.glob("*/*")
        assert not (folder / "result.json").exists()
        self.train([*overrides, f"run_root={root}"], log)
        return folder

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def _epochs(root: Path) -> int:
    """Epochs that have been written down: the trajectory's lines, but for that before training."""
    return max(
        (len(path.read_bytes().splitlines()) - 1 for path in root.glob("*/*/architecture.jsonl")), default=0
    )


def assert_same_training(one: Path, other: Path) -> None:
    """The folders of two finished runs hold the same weights, optimisers, scores and trajectories, bit for bit."""
    assert one.name == other.name
    for name in ("best.ckpt", "last.ckpt"):
        first, second = (torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (one, other))
        for part in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers"):
            (leaves, shape), (others, other_shape) = map(tree_flatten, (first[part], second[part]))
            assert shape == other_shape, (name, part)
            for a, b in zip(leaves, others, strict=True):
                same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
                assert same, (name, part)
    records = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert records[0]["scores"] == records[1]["scores"]
    trajectories = [(folder / "architecture.jsonl").read_text() for folder in (one, other)]
    assert trajectories[0] == trajectories[1]


def _place(kill: Kill) -> None:
    """Puts the kill into the function that it names."""
    name, call, after = kill
    module, _, attribute = name.partition(":")
    holder = pkgutil.resolve_name(f"{module}:{attribute.rpartition('.')[0]}".rstrip(":"))
    function, calls = pkgutil.resolve_name(name), itertools.count(1)

    def killed(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)
        if number == call and not after:
            os.killpg(0, signal.SIGKILL)
        result = function(*args, **kwargs)
        if number == call:
            os.killpg(0, signal.SIGKILL)
        return result

    setattr(holder, attribute.rpartition(".")[2], killed)


def _block(log: Path) -> None:
    """Refuses every connection that is not to a process of this machine, and notes it."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        with log.open("a") as file:
            file.write(f"{args[-2:]}\n")
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
            refuse(self, address)
        connect(self, address)

    socket.socket.connect = connect_here
    socket.getaddrinfo = refuse


def _serve() -> None:
    from pnfs.commands import launch, main, train

    assert all((launch, train))  # Imported once, for all.
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            os.setsid()
            # What starts in the background ignores Ctrl-C, these tests among it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for stream, name in ((1, "output"), (2, "errors")):
                os.dup2(os.open(job[name], os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
            os.chdir(job["folder"])
            sys.argv = ["pnfs", *job["arguments"]]
            if job["blocked"] is not None:
                _block(Path(job["blocked"]))
            if job["kill"] is not None:
                _place(job["kill"])
            status = 1
            try:
                main.main()
                status = 0
            except SystemExit as end:
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()

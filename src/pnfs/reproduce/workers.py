"""Several trainings side by side, each in a process that outlives the failure of any of them."""

import contextlib
import multiprocessing
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pnfs.runs.state import cause_of

Job = TypeVar("Job")


@dataclass(frozen=True)
class Outcome(Generic[Job]):
    """How a job ended."""

    job: Job
    cause: str | None
    """Why it failed; None if it did not."""
    seconds: float


def run_jobs(
    function: Callable[[Job], None],
    jobs: Sequence[Job],
    *,
    log_of: Callable[[Job], Path],
    processes: int = 1,
    fail_fast: bool = False,
    on_start: Callable[[Job], None] = lambda job: None,
) -> Iterator[Outcome[Job]]:
    """Runs all jobs; one that fails, or whose process is killed, does not stop the others.

    Args:
        function: Does a job in the worker's process; it and the jobs must be picklable.
        jobs: In the order in which they start.
        log_of: File that a job's output is appended to.
        processes: How many run at once.
        fail_fast: Start no other job after the first failure.
        on_start: Called when a job starts.

    Yields:
        Outcomes, as the jobs end.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    ended: queue.SimpleQueue[Outcome[Job] | None] = queue.SimpleQueue()
    stop = threading.Event()
    processes = max(1, min(processes, len(jobs)))
    threads = [
        threading.Thread(
            target=_serve,
            args=(function, waiting, ended, log_of, on_start, stop, fail_fast, processes),
        )
        for _ in range(processes)
    ]
    for thread in threads:
        thread.start()
    try:
        while processes:
            outcome = ended.get()
            if outcome is None:
                processes -= 1
                continue
            yield outcome
    finally:
        # Ctrl-C reaches the workers as well; each ends its epoch.
        stop.set()
        for thread in threads:
            thread.join()


def _serve(
    function: Callable[[Job], None],
    waiting: "queue.SimpleQueue[Job]",
    ended: "queue.SimpleQueue[Outcome[Job] | None]",
    log_of: Callable[[Job], Path],
    on_start: Callable[[Job], None],
    stop: threading.Event,
    fail_fast: bool,
    processes: int,
) -> None:
    """Gives one worker process one job after another; a dead one is replaced."""
    pool = None
    with contextlib.suppress(queue.Empty):
        while not stop.is_set():
            job = waiting.get_nowait()
            pool = pool or _worker(processes)
            on_start(job)
            started = time.monotonic()
            try:
                cause = pool.submit(_logged, function, job, log_of(job)).result()
            except BrokenProcessPool:
                cause = "its process was killed (out of memory?); the same command resumes it"
                pool = None
            except Exception as error:
                cause = cause_of(error)
            if cause is not None and fail_fast:
                # Here, not where outcomes are read: a slow reader would let others start.
                stop.set()
            ended.put(Outcome(job, cause, time.monotonic() - started))
    if pool is not None:
        pool.shutdown()
    ended.put(None)


def _worker(processes: int) -> ProcessPoolExecutor:
    # A fresh interpreter: forked ones inherit locks of threads, and no CUDA.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=_start, initargs=(processes,))


def _start(processes: int) -> None:
    """Begins a worker: it ends with its parent, and takes its share of the cores."""

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        import torch  # Only here: a worker that has nothing to share out starts at once.

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _logged(function: Callable[[Job], None], job: Job, log: Path) -> str | None:
    """Does a job with its output in a file; returns the cause of a failure."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        # Descriptors, so that what libraries print from C and from loaders lands there too.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
        try:
            function(job)
        except BaseException as error:
            traceback.print_exc()
            return cause_of(error)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    return None

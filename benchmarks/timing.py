"""Fair timing: alternatives take turns, medians are compared, each runs in a process of its own."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any, NamedTuple

import pandas as pd
import torch

Call = Callable[[], Any]
Maker = Callable[[], Call]
"""Makes what is timed, in the process that runs it; must be picklable, as a partial of a function is."""


def take_turns(
    makers: Mapping[str, Maker], *, threads: int, rounds: int, repeats: int = 1, items: int = 1
) -> pd.DataFrame:
    """Times calls against each other; each round runs every call, so that drift hits all alike.

    Each has a process of its own, so that its busy threads, kept memory and caches disturb no other.

    Returns:
        A row a name: ratio of medians to the first's, milliseconds, `items` (persons in a call) per second.
    """
    seconds = pd.DataFrame(index=range(rounds), columns=list(makers), dtype=float)
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"), _make, (make, threads)))
            for name, make in makers.items()
        }
        for process in processes.values():
            process.submit(_seconds, 2).result()
        for n in range(rounds):
            for name, process in processes.items():
                seconds.loc[n, name] = process.submit(_seconds, repeats).result()
    median = seconds.median()
    return pd.DataFrame(
        {
            "times as fast": median.iloc[0] / median,
            "ms": 1e3 * median,
            "fastest ms": 1e3 * seconds.min(),
            "slowest ms": 1e3 * seconds.max(),
            "per second": items / median,
        }
    ).rename_axis("how")


_call: Call | None = None


def _make(make: Maker, threads: int) -> None:
    global _call
    torch.set_num_threads(threads)
    _call = make()


def _seconds(repeats: int) -> float:
    assert _call is not None
    _call()  # The first call after a pause wakes threads and caches.
    _wait()
    start = time.perf_counter()
    for _ in range(repeats):
        _call()
    _wait()
    return (time.perf_counter() - start) / repeats


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Section(NamedTuple):
    """A table of measurements, a row an alternative, and the column that the picture shows."""

    title: str
    table: pd.DataFrame
    bars: str = "times as fast"

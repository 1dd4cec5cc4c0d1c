"""Calls in processes of their own: thread pools that wait busily take time from each other in one process."""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

Call = Callable[[np.ndarray], Any]


class CallApart:
    """A call on images that lives in a process of its own.

    Args:
        make: Makes the call there; must be picklable, as a dataclass of modules and paths is.
        threads: Threads of PyTorch there.
    """

    def __init__(self, make: Callable[[], Call], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, threads, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def output(self, images: np.ndarray) -> np.ndarray:
        """What the call makes of `images`, which later timings use too."""
        self._connection.send(images)
        return self._receive()

    def seconds(self, repeats: int) -> float:
        """Mean over calls in a row."""
        self._connection.send(repeats)
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        self._connection.send(None)
        self._process.join()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError(
                "a process that was being timed ended; its error stands above"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def take_turns_apart(
    calls: Mapping[str, CallApart], *, rounds: int, repeats: int, warm_up: int = 3
) -> dict[str, list[float]]:
    """Seconds of a call in each round, by name; each round runs every call."""
    for call in calls.values():
        call.seconds(warm_up)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(call.seconds(repeats))
    return seconds


def _serve(make: Callable[[], Call], threads: int, connection: Connection) -> None:
    torch.set_num_threads(threads)
    call = make()
    images = np.zeros((0,))
    while (message := connection.recv()) is not None:
        try:
            if isinstance(message, np.ndarray):
                images = message
                connection.send(np.asarray(call(images)))
            else:
                # The first call after a pause wakes threads and caches.
                call(images)
                started = time.perf_counter()
                for _ in range(message):
                    call(images)
                connection.send((time.perf_counter() - started) / message)
        except Exception as error:
            connection.send(error)

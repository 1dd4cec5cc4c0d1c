"""Fair timing: alternatives take turns, medians are compared, the machine's ceilings stand beside."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one call.

    Args:
        median: Over the rounds.
        low: The fastest round.
        high: The slowest round.
    """

    median: float
    low: float
    high: float


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    device: torch.device | str = "cpu",
    rounds: int = 5,
    repeats: int = 3,
    warm_up: int = 2,
) -> dict[str, Timing]:
    """Times calls against each other; each round runs every call, so that drift hits all alike.

    Args:
        calls: Name -> what to time.
        device: A CUDA device is waited for before the clock is read.
        rounds: Rounds that count.
        repeats: Calls in a row of which a round takes the mean.
        warm_up: Calls before the first round; compilation and allocation happen there.

    Returns:
        Seconds a call, by name.
    """
    device = torch.device(device)
    for call in calls.values():
        for _ in range(warm_up):
            call()
    wait(device)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            wait(device)
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            wait(device)
            seconds[name].append((time.perf_counter() - started) / repeats)
    return {name: Timing(median(s), min(s), max(s)) for name, s in seconds.items()}


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ceilings(device: torch.device | str, dtype: torch.dtype) -> dict[str, float]:
    """What this machine reaches: matrix product (FLOP/s) and copy (bytes read and written a second)."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    side = 8192 if on_gpu else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.randn(2**28 if on_gpu else 2**24, device=device)
    target = torch.empty_like(source)
    times = take_turns(
        {"product": lambda: torch.mm(a, b), "copy": lambda: target.copy_(source)},
        device=device,
        repeats=10 if on_gpu else 3,
    )
    return {
        "product_flops": 2 * side**3 / times["product"].median,
        "copy_bytes": 2 * source.numel() * source.element_size() / times["copy"].median,
    }

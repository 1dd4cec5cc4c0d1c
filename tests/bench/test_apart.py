"""Calls in processes of their own."""

from functools import partial

import numpy as np
import pytest

from pnfs.bench.apart import CallApart, take_turns_apart


def scaled(images: np.ndarray, factor: float) -> np.ndarray:
    if images.size == 0:
        raise ValueError("no images")
    return factor * images


def make(factor: float):
    return partial(scaled, factor=factor)


def test_calls_take_turns_and_answer_for_themselves() -> None:
    calls = {f"{factor}": CallApart(partial(make, factor), threads=1) for factor in (2, 3)}
    with pytest.raises(ValueError, match="no images"):
        calls["2"].seconds(1)
    images = np.arange(6.0).reshape(2, 3)
    for factor, call in zip((2, 3), calls.values(), strict=True):
        np.testing.assert_array_equal(call.output(images), factor * images)
    seconds = take_turns_apart(calls, rounds=3, repeats=2)
    assert {name: len(of_rounds) for name, of_rounds in seconds.items()} == {"2": 3, "3": 3}
    assert min(map(min, seconds.values())) > 0
    for call in calls.values():
        call.close()

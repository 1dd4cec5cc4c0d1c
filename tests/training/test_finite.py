"""The watch over losses: the first one that is not finite is named, with what is needed to find the cause."""

import math

import pytest
import torch

from pnfs.training import finite
from pnfs.training.finite import LossWatch, SeenLoss, describe_loss


def seen(value: float, step: int = 0) -> SeenLoss:
    return SeenLoss(
        name="training",
        value=torch.tensor(value),
        rows=torch.tensor([step, step + 1]),
        epoch=step // 4,
        step=step,
        batch=step % 4,
        lr=0.01,
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_on_the_cpu_a_bad_loss_is_seen_at_once(bad: float) -> None:
    watch = LossWatch()
    assert watch.see(seen(1.0)) is None
    found = watch.see(seen(bad, step=1))
    assert found is not None
    assert found.step == 1
    assert watch.look() is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_elsewhere_the_first_bad_loss_is_named_at_the_next_look(
    monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    monkeypatch.setattr(finite, "is_at_hand", lambda value: False)
    watch = LossWatch(every=4)
    losses = [0.3, 0.2, 0.1, 0.1, 0.4, bad, 0.2, bad]
    found = [watch.see(seen(value, step)) for step, value in enumerate(losses)]
    assert found[:7] == [None] * 7
    assert found[7] is not None
    # Not the one at which it was looked.
    assert (found[7].step, found[7].epoch, found[7].batch) == (5, 1, 1)


def test_the_end_of_an_epoch_looks_at_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "is_at_hand", lambda value: False)
    watch = LossWatch(every=100)
    assert watch.look() is None
    for step, value in enumerate([0.1, math.nan, 0.1]):
        assert watch.see(seen(value, step)) is None
    found = watch.look()
    assert found is not None
    assert found.step == 1
    assert watch.look() is None


def test_message_names_epoch_step_persons_and_learning_rate() -> None:
    text = describe_loss(seen(math.inf, step=6), ["000123.jpg/0", "p7"])
    for part in (
        "training loss is inf",
        "epoch 1",
        "step 6",
        "batch 2",
        "0.01",
        "000123.jpg/0",
        "p7",
    ):
        assert part in text

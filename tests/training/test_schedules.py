"""Schedules against the recipe's own numbers."""

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer

from pnfs.training.schedules import OneCycleSchedule, Schedule, StepSchedule


def optimizer(*rates: float) -> Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    return SGD(groups, lr=1.0)


def rates_of(schedule: Schedule, optimizer: Optimizer, epochs: int, steps: int) -> list[list[float]]:
    """The learning rates of each group, before each step of the scheduler."""
    built = schedule.build(optimizer, epochs, steps)
    length = epochs if built["interval"] == "epoch" else steps
    rates = []
    for _ in range(length):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if len(rates) < length:
            built["scheduler"].step()
    return rates


def test_the_papers_steps_fall_on_epochs_90_120_and_150() -> None:
    rates = rates_of(StepSchedule(), optimizer(1e-3, 5e-4), epochs=200, steps=10_000)
    for epoch, (weights, architecture) in enumerate(rates):
        passed = sum(epoch >= milestone for milestone in (90, 120, 150))
        assert weights == pytest.approx(1e-3 * 0.25**passed, rel=1e-9)
        assert architecture == pytest.approx(weights / 2, rel=1e-9)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 40])
def test_every_run_begins_at_the_full_rate_and_ends_at_a_64th(epochs: int) -> None:
    rates = [rate for (rate,) in rates_of(StepSchedule(), optimizer(1.0), epochs, 1)]
    assert rates[0] == 1
    assert rates == sorted(rates, reverse=True)
    assert epochs <= 2 or rates[-1] == pytest.approx(0.25**3)


def test_one_cycle_goes_up_to_the_peak_and_down_to_nothing_in_all_groups() -> None:
    schedule = OneCycleSchedule(peak=2e-3, warmup=0.3)
    table = rates_of(schedule, optimizer(1e-3, 3e-3, 1e-4), epochs=5, steps=100)
    rates = [weights for weights, _, _ in table]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(2e-3)
    assert top == pytest.approx(0.3 * 100, abs=1)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] < 2e-3 / 10
    assert rates[-1] < 2e-3 / 1000
    for weights, triple, tenth in table:
        assert (triple, tenth) == pytest.approx((3 * weights, weights / 10), rel=1e-6)
    adam = Adam([torch.zeros(1, requires_grad=True)], lr=1e-3, betas=(0.9, 0.99))
    rates_of(OneCycleSchedule(), adam, 1, 10)
    assert adam.param_groups[0]["betas"] == (0.9, 0.99)

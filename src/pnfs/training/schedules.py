"""Learning-rate schedules that scale with the length of a run."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import lightning as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR


@runtime_checkable
class Schedule(Protocol):
    """Makes the scheduler of a run of known length."""

    def build(self, optimizer: Optimizer, epochs: int, steps: int) -> dict[str, Any]:
        """Lightning's `lr_scheduler` dictionary for a run of `epochs` epochs, `steps` steps."""
        ...


@dataclass(frozen=True)
class StepSchedule:
    """The paper's: times `factor` at each of the milestones, shares of the run's length (epochs 90, 120, 150)."""

    factor: float = 0.25
    milestones: Sequence[float] = (0.45, 0.6, 0.75)

    def build(self, optimizer: Optimizer, epochs: int, steps: int) -> dict[str, Any]:
        # Not before the first epoch is over, however short the run.
        epochs_at = [max(1, round(share * epochs)) for share in self.milestones]
        scheduler = MultiStepLR(optimizer, epochs_at, gamma=self.factor)
        return {"scheduler": scheduler, "interval": "epoch"}


@dataclass(frozen=True)
class OneCycleSchedule:
    """One cycle, for short runs: in a share `warmup` up to `peak`, then down towards zero.

    `peak` is the weights' highest learning rate; groups with a factor of their own get that factor.
    """

    peak: float = 2e-3
    warmup: float = 0.3

    def build(self, optimizer: Optimizer, epochs: int, steps: int) -> dict[str, Any]:
        base = optimizer.param_groups[0]["lr"]
        peaks = [self.peak * group["lr"] / base for group in optimizer.param_groups]
        scheduler = OneCycleLR(
            optimizer, max_lr=peaks, total_steps=steps, pct_start=self.warmup, cycle_momentum=False
        )
        return {"scheduler": scheduler, "interval": "step"}


def schedule_anew(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Puts the trainer's own schedule and settings of the optimiser into another run's checkpoint that it goes on
    from, before it loads them: at the epoch that is reached, as if they had been in use from the first one."""
    (config,), (optimizer,) = trainer.lr_scheduler_configs, trainer.optimizers
    # A schedule that follows the scores knows no length; weights alone Lightning refuses.
    if config.reduce_on_plateau or "loops" not in checkpoint:
        return
    batch, every = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"], trainer.accumulate_grad_batches
    reached = checkpoint["epoch"] + batch["is_last_batch"]
    if config.interval == "step":
        # Not the steps of the other run, whose epochs may have more or fewer of them.
        reached *= math.ceil(trainer.num_training_batches / every)
        reached += 0 if batch["is_last_batch"] else batch["current"]["completed"] // every
        reached = min(reached, int(trainer.estimated_stepping_batches))
    scheduler: Any = config.scheduler
    with warnings.catch_warnings(action="ignore"):  # The optimiser makes no step between.
        for _ in range(reached // config.frequency):
            scheduler.step()
    checkpoint["lr_schedulers"] = [scheduler.state_dict()]
    groups = zip(checkpoint["optimizer_states"][0]["param_groups"], optimizer.param_groups, strict=False)
    for settings, group in groups:
        settings |= {key: value for key, value in group.items() if key != "params"}

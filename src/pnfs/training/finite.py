"""Training stops at the first loss that is not finite, and names where that was."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pnfs.errors import PnfsError


class NonFiniteLossError(PnfsError):
    """A loss became nan or infinite; the message says where."""


@dataclass(frozen=True)
class SeenLoss:
    """One loss and where it stands in a run."""

    name: str
    """Of the loss: "training" or "architecture"."""
    value: Tensor
    rows: Tensor
    """Rows of the training persons in the batch."""
    epoch: int
    step: int
    """Of the optimiser, over the whole run, from 0."""
    batch: int
    """In the epoch, from 0."""
    lr: float


class LossWatch:
    """Keeps the losses since the last look, so that a GPU need not wait at every step to name the first bad one.

    On the CPU every loss is looked at at once.

    Args:
        every: Losses between two looks on other devices.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = every
        self._seen: list[SeenLoss] = []

    def see(self, loss: SeenLoss) -> SeenLoss | None:
        """Takes in a loss; returns the first that is not finite, if it was time to look."""
        self._seen.append(loss)
        if is_at_hand(loss.value) or len(self._seen) >= self.every:
            return self.look()
        return None

    def look(self) -> SeenLoss | None:
        """The first loss since the last look that is not finite."""
        seen, self._seen = self._seen, []
        if not seen:
            return None
        # One transfer for all of them.
        finite = torch.stack([loss.value for loss in seen]).isfinite().tolist()
        return next((loss for loss, fine in zip(seen, finite, strict=True) if not fine), None)


def is_at_hand(value: Tensor) -> bool:
    """Whether reading a value makes nobody wait."""
    return value.device.type == "cpu"


def describe_loss(loss: SeenLoss, ids: list[str]) -> str:
    """What a user needs to find the cause.

    Args:
        loss: Not finite.
        ids: Ids of the persons in its batch.
    """
    return (
        f"the {loss.name} loss is {float(loss.value)} in epoch {loss.epoch}, step {loss.step} (batch "
        f"{loss.batch} of the epoch), learning rate {loss.lr:g}; persons of the batch: {', '.join(ids)}. "
        "Training stopped: look at these persons (pnfs data action=browse), or choose a smaller optimizer.lr, "
        "trainer.gradient_clip_val, or trainer.precision=32-true"
    )

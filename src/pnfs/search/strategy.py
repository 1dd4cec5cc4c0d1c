"""What search strategies share: a strategy is a callback that owns alpha and beta."""

from typing import Any, ClassVar

import lightning as L
from torch import nn
from torch.optim import Optimizer

from pnfs.errors import PnfsError
from pnfs.training.module import PoseModule


class SearchStrategy(L.Callback):
    """Decides what happens to the architecture parameters of a run.

    Subclasses fill in `prepare`, which is called once before the optimisers are made.

    Args:
        warmup_epochs: First epochs in which alpha and beta stay as they are while the weights learn.

    Attributes:
        compilable: Whether training steps may be compiled (`acceleration.compile`). Not where a step puts
            other tensors in the place of the weights.
    """

    compilable: ClassVar[bool] = True

    def __init__(self, warmup_epochs: int = 0) -> None:
        super().__init__()
        if warmup_epochs < 0:
            raise PnfsError(f"strategy.warmup_epochs must not be negative, got {warmup_epochs}")
        self.warmup_epochs = warmup_epochs

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.prepare(pose_module(pl_module), trainer)

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        """Sets initial values, freezes alpha and beta, or hands them to an optimiser."""
        raise NotImplementedError(f"{type(self).__name__} defines no prepare")

    def warming_up(self, trainer: L.Trainer) -> bool:
        """Whether alpha and beta still have to stay as they are."""
        return trainer.current_epoch < self.warmup_epochs

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.warming_up(trainer):
            # An optimiser leaves parameters without gradient alone, weight decay included.
            for parameter in architecture_of(pl_module):
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Plain data only, so that checkpoints load with weights_only=True."""
        return {}


def pose_module(module: L.LightningModule) -> PoseModule:
    """The module as what a strategy needs.

    Raises:
        TypeError: It is another module.
    """
    if not isinstance(module, PoseModule):
        raise TypeError(f"a search strategy needs a PoseModule, got {type(module).__name__}")
    return module


def architecture_of(module: L.LightningModule) -> list[nn.Parameter]:
    """alpha and beta of all parts, in a fixed order."""
    return list(pose_module(module).network.architecture_parameters().values())


def freeze_architecture(module: PoseModule) -> None:
    """Keeps alpha and beta as they are: no gradient, in no optimiser."""
    module.architecture_group = None
    for parameter in architecture_of(module):
        parameter.requires_grad_(False)

"""Gumbel-softmax search: mixing weights are sampled while alpha and beta are learned (SNAS)."""

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from pnfs.errors import PnfsError
from pnfs.search.strategy import SearchStrategy, pose_module
from pnfs.training.module import ArchitectureGroup, PoseBatch, PoseModule


class GumbelSoftmax(SearchStrategy):
    """softmax((logits + Gumbel noise) / temperature) in training, softmax(logits) in evaluation.

    After S. Xie et al., SNAS: Stochastic Neural Architecture Search (arXiv 1812.09926): alpha and beta are
    trained together with the weights by the reparametrised gradient; the temperature falls geometrically
    from the first epoch to the last. A sample is a function of (seed, step), the same in all processes.

    Args:
        seed: Seed of the noise.
        first_temperature: In the first epoch after the warm-up.
        last_temperature: In the last epoch.
        lr_factor: Learning rate of alpha and beta relative to the weights'.
        weight_decay: Weight decay of alpha and beta.
        warmup_epochs: First epochs with plain softmax, in which alpha and beta stay as they are.
    """

    def __init__(
        self,
        seed: int = 0,
        first_temperature: float = 5.0,
        last_temperature: float = 0.5,
        lr_factor: float = 1.0,
        weight_decay: float = 0.0,
        warmup_epochs: int = 0,
    ) -> None:
        super().__init__(warmup_epochs)
        if min(first_temperature, last_temperature) <= 0:
            raise PnfsError("strategy: first_temperature and last_temperature must be positive")
        self.seed = seed
        self.first_temperature, self.last_temperature = first_temperature, last_temperature
        self.group = ArchitectureGroup(lr_factor=lr_factor, weight_decay=weight_decay)
        self._generator = torch.Generator()
        self._temperature: float | None = None

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        module.architecture_group = self.group
        for fabrics in module.network.named_fabrics().values():
            fabrics.relaxation = self.sample

    def temperature(self, epoch: int, epochs: int) -> float:
        """Temperature of an epoch, counted from 0, of a run of `epochs` epochs."""
        steps = max(epochs - 1 - self.warmup_epochs, 1)
        progress = min(max(epoch - self.warmup_epochs, 0) / steps, 1.0)
        ratio = self.last_temperature / self.first_temperature
        return self.first_temperature * ratio**progress

    def sample(self, logits: Float[Tensor, "*table O"]) -> Float[Tensor, "*table O"]:
        """Mixing weights: a draw from the concrete distribution of the logits."""
        if self._temperature is None:
            return logits.softmax(-1)
        # -log of an exponential draw is a Gumbel draw.
        noise = torch.empty(logits.shape).exponential_(generator=self._generator).log().neg()
        return ((logits + noise.to(logits.device)) / self._temperature).softmax(-1)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: PoseBatch, batch_idx: int
    ) -> None:
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        self._generator.manual_seed(hash((self.seed, step)) % 2**63)
        if self.warming_up(trainer):
            self._temperature = None
        else:
            self._temperature = self.temperature(trainer.current_epoch, trainer.max_epochs or 1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._temperature is not None:
            pose_module(pl_module).log("architecture/temperature", self._temperature)

"""A search strategy is a callback that owns alpha and beta; those that take the run's data as it is."""

from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from pnfs.errors import PnfsError
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import load_architecture
from pnfs.training.checkpoints import read_architecture
from pnfs.training.module import PoseBatch, PoseModule


class SearchStrategy(L.Callback):
    """Decides what happens to the architecture parameters of a run.

    Subclasses fill in `prepare`, which is called once before the optimisers are made. A `state_dict` is plain data
    only, so that checkpoints load with weights_only=True.

    In the first `warmup_epochs` alpha and beta stay as they are while the weights learn. Training steps of those
    that are `compilable` may be compiled (`acceleration.compile`).
    """

    compilable: ClassVar[bool] = True
    weight_decay = 0.0
    """Weight decay of alpha and beta."""

    def __init__(self, warmup_epochs: int = 0) -> None:
        super().__init__()
        if warmup_epochs < 0:
            raise PnfsError(f"strategy.warmup_epochs must not be negative, got {warmup_epochs}")
        self.warmup_epochs = warmup_epochs

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            assert isinstance(pl_module, PoseModule)
            self.prepare(pl_module, trainer)
            if self.weight_decay and any(p.isneginf().any() for p in architecture_of(pl_module)):
                text = "the network is a derived one, and what it lacks cannot decay; set it to 0"
                raise PnfsError(f"strategy.weight_decay={self.weight_decay}: {text}")

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


def architecture_of(module: Any) -> list[nn.Parameter]:
    """alpha and beta of all parts of a `PoseModule`, in a fixed order."""
    return list(module.network.architecture_parameters().values())


def set_architecture(parameter: nn.Parameter, values: Tensor) -> None:
    """Gives alpha or beta values, but for those of candidates that a derived network lacks."""
    parameter.data.copy_(torch.where(parameter.isneginf(), parameter, values.to(parameter)))


def freeze_architecture(module: PoseModule) -> None:
    """Keeps alpha and beta as they are: no gradient, in no optimiser."""
    module.architecture_group = None
    for parameter in architecture_of(module):
        parameter.requires_grad_(False)


class Synchronous(SearchStrategy):
    """The paper's main strategy (section III-F): one optimiser, one loss, no split of the data.

    The learning rate of alpha and beta is `lr_factor` times the weights', 1 in the paper; their weight decay is 0
    there.
    """

    def __init__(self, lr_factor: float = 1.0, weight_decay: float = 0.0, warmup_epochs: int = 0) -> None:
        super().__init__(warmup_epochs)
        self.group, self.weight_decay = (lr_factor, weight_decay), weight_decay

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        module.architecture_group = self.group


class Random(SearchStrategy):
    """alpha, beta ~ N(0, std^2), drawn by `seed` whatever the weights' seed, fixed for the run (Table II)."""

    def __init__(self, seed: int = 0, std: float = 1.0) -> None:
        super().__init__()
        self.seed, self.std = seed, std

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        for parameter in architecture_of(module):
            set_architecture(parameter, torch.randn(parameter.shape, generator=generator) * self.std)
        freeze_architecture(module)


class Frozen(SearchStrategy):
    """alpha and beta keep their values for the whole run; only weights are trained.

    They are those of `architecture`, a JSON file of `pnfs train` or `pnfs derive`, a checkpoint or a run's folder;
    None for uniform weights. The fabrics must have the same parts, operations and cells, on any backbone.
    """

    def __init__(self, architecture: str | Path | None = None) -> None:
        super().__init__()
        self.architecture = architecture

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        if self.architecture is None:
            for parameter in architecture_of(module):
                set_architecture(parameter, torch.zeros_like(parameter))
        elif not isinstance(module.network, PoseFabricNetwork):
            raise PnfsError("strategy.architecture: the model has no fabrics; use null")
        else:
            load_architecture(module.network, read_architecture(self.architecture))
        freeze_architecture(module)


class GumbelSoftmax(Synchronous):
    """softmax((logits + Gumbel noise) / temperature) in training, softmax(logits) in evaluation.

    After S. Xie et al., SNAS: Stochastic Neural Architecture Search (arXiv 1812.09926): alpha and beta are
    trained together with the weights by the reparametrised gradient; the temperature falls geometrically
    from the first epoch to the last. A sample is a function of (seed, step), the same in all processes.

    `first_temperature` is that of the first epoch after the warm-up, in which weights are a plain softmax;
    for `lr_factor`, `weight_decay` and `warmup_epochs` see `Synchronous`.
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
        super().__init__(lr_factor, weight_decay, warmup_epochs)
        if min(first_temperature, last_temperature) <= 0:
            raise PnfsError("strategy: first_temperature and last_temperature must be positive")
        self.seed = seed
        self.first_temperature, self.last_temperature = first_temperature, last_temperature
        self._generator = torch.Generator()
        self._temperature: float | None = None

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        super().prepare(module, trainer)
        for fabrics in module.network.named_fabrics().values():
            fabrics.relaxation = self.sample

    def temperature(self, epoch: int, epochs: int) -> float:
        """Temperature of an epoch, counted from 0."""
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
        temperature = self.temperature(trainer.current_epoch, trainer.max_epochs or 1)
        self._temperature = None if self.warming_up(trainer) else temperature

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._temperature is not None:
            pl_module.log("architecture/temperature", self._temperature)

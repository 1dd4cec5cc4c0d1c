"""What the gradient-based bilevel strategies share: data of their own, an optimiser of their own."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from jaxtyping import Float
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.func import functional_call

from pnfs.data.module import PoseDataModule
from pnfs.errors import PnfsError
from pnfs.search.strategy import (
    SearchStrategy,
    architecture_of,
    freeze_architecture,
    pose_module,
)
from pnfs.training.module import PoseBatch, PoseModule

Parameters = dict[str, Tensor]


class BilevelStrategy(SearchStrategy):
    """alpha and beta learn from one part of the training persons, the weights from the other.

    Before every step of the weights' optimiser, one step of an Adam of their own moves alpha and beta.
    The weights' own optimisation stays Lightning's automatic one: epochs, steps and schedulers count
    as without a search. Running statistics of the normalisations belong to the weights: the
    architecture step leaves them as they are.

    Args:
        lr: Learning rate of alpha and beta.
        weight_decay: Weight decay of alpha and beta.
        share: Share of the training persons that alpha and beta learn from.
        seed: Seed of the division of the training persons.
        warmup_epochs: First epochs in which alpha and beta stay as they are.
        betas: Decay rates of the Adam of alpha and beta. DARTS takes (0.5, 0.999), the authors' public
            code PyTorch's (0.9, 0.999).
    """

    def __init__(
        self,
        lr: float = 0.003,
        weight_decay: float = 0.001,
        share: float = 0.5,
        seed: int = 0,
        warmup_epochs: int = 0,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        super().__init__(warmup_epochs)
        self.betas = betas
        self.lr = lr
        self.weight_decay = weight_decay
        self.share = share
        self.seed = seed
        self.architecture_rows: list[int] = []
        self.loss_scale = 1.0
        self.optimizer: torch.optim.Optimizer | None = None
        self._restored: dict[str, Any] | None = None
        self._batches: Iterator[PoseBatch] | None = None
        self._loader: Any = None

    @abstractmethod
    def architecture_gradients(
        self, module: PoseModule, train_batch: PoseBatch, search_batch: PoseBatch
    ) -> tuple[list[Tensor], Float[Tensor, ""]]:
        """Gradients for alpha and beta, in the order of `architecture_of`, and the search loss."""

    def gradients_of(
        self, loss: Float[Tensor, ""], inputs: Sequence[Tensor], through: bool = False
    ) -> list[Tensor]:
        """Gradients of a loss, taken at the loss scale of the run's precision.

        Args:
            loss: The loss.
            inputs: What to differentiate for; all of them take part in the loss.
            through: Keep the graph, to differentiate through the gradients.
        """
        scaled = torch.autograd.grad(loss * self.loss_scale, list(inputs), create_graph=through)
        return [gradient / self.loss_scale for gradient in scaled]

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        if not architecture_of(module):
            raise PnfsError(
                f"{type(self).__name__} has nothing to search: the model has no fabrics; use "
                "strategy=synchronous, which then only trains the weights"
            )
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, PoseDataModule):
            raise PnfsError(f"{type(self).__name__} needs a PoseDataModule to divide")
        _, self.architecture_rows = data.split_train(self.share, self.seed)
        # Without gradient in the weights' step, and so outside of what DDP reduces.
        freeze_architecture(module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.optimizer = torch.optim.Adam(
            architecture_of(pl_module),
            lr=self.lr,
            weight_decay=self.weight_decay,
            betas=self.betas,
        )
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self._restored is not None:
            if self._restored["architecture_rows"] != self.architecture_rows:
                raise PnfsError(
                    "the checkpoint's division of the training persons is another one than this "
                    "run's; share, seed and dataset must be those it was made with"
                )
            self.optimizer.load_state_dict(self._restored["optimizer"])
        self._loader = data.architecture_dataloader()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._loader.sampler.set_epoch(trainer.current_epoch)
        self._batches = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: PoseBatch, batch_idx: int
    ) -> None:
        if self.warming_up(trainer) or batch_idx % trainer.accumulate_grad_batches != 0:
            return
        module = pose_module(pl_module)
        # Half precision loses small gradients: they are taken of the scaled loss, as the weights' are.
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.loss_scale = 1.0 if scaler is None else float(scaler.get_scale())
        data: PoseDataModule = trainer.datamodule  # type: ignore[attr-defined]
        search_batch = data.on_after_batch_transfer(
            move_data_to_device(self._next_batch(), module.device), dataloader_idx=0
        )
        parameters = architecture_of(module)
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            with trainer.precision_plugin.forward_context():
                gradients, loss = self.architecture_gradients(module, batch, search_batch)
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
        module.watch_loss("architecture", loss, search_batch, batch_idx)
        gradients = average_over_processes(gradients)
        if scaler is None or all(bool(gradient.isfinite().all()) for gradient in gradients):
            self._step(parameters, gradients)
        module.log("architecture/loss", loss, on_step=False, on_epoch=True)

    def _step(self, parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
        assert self.optimizer is not None
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _next_batch(self) -> PoseBatch:
        if self._batches is None:
            self._batches = iter(self._loader)
        try:
            return next(self._batches)
        except StopIteration:
            # The search half is a little smaller than the other: it starts again.
            self._batches = iter(self._loader)
            return next(self._batches)

    def state_dict(self) -> dict[str, Any]:
        optimizer = {} if self.optimizer is None else self.optimizer.state_dict()
        return {"optimizer": optimizer, "architecture_rows": self.architecture_rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The optimiser exists only once training starts, on the right device.
        self._restored = state_dict if state_dict["optimizer"] else None


def functional_loss(
    module: PoseModule, parameters: Parameters, batch: PoseBatch
) -> Float[Tensor, ""]:
    """The loss of the network with `parameters` in place of its own; running statistics stay."""
    network = module.network
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    part_maps = functional_call(network, (parameters, buffers), (batch["image"],))
    return module.loss(part_maps, batch, module.codec, network.map_joints)


def architecture_names(module: PoseModule) -> list[str]:
    """State-dict names of alpha and beta in the network, in the order of `architecture_of`."""
    names = {id(parameter): name for name, parameter in module.network.named_parameters()}
    return [names[id(parameter)] for parameter in architecture_of(module)]


def average_over_processes(gradients: list[Tensor]) -> list[Tensor]:
    """The mean over all processes: a callback's gradients bypass DDP's reduction."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return gradients
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    pieces = flat.split([gradient.numel() for gradient in gradients])
    return [piece.view_as(gradient) for piece, gradient in zip(pieces, gradients, strict=True)]

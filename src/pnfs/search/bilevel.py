"""Gradient-based bilevel search (DARTS): alpha and beta learn from other persons than the weights.

After H. Liu, K. Simonyan, Y. Yang, DARTS: Differentiable Architecture Search (arXiv 1806.09055), with no
discretisation afterwards.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.func import functional_call

from pnfs.data.module import PoseDataModule
from pnfs.errors import PnfsError
from pnfs.search.strategy import SearchStrategy, architecture_of, freeze_architecture
from pnfs.training.module import PoseBatch, PoseModule


class FirstOrder(SearchStrategy):
    """alpha and beta learn from one part of the training persons, the weights from the other (section III-F).

    Before every step of the weights' optimiser, one step of an Adam of their own moves alpha and beta; epochs,
    steps and schedulers count as without a search. Running statistics belong to the weights: this step leaves
    them as they are.

    `lr`, `weight_decay` and `betas` are the Adam's (`betas` DARTS's; the authors' public code has (0.9, 0.999)),
    `share` is that of the training persons that alpha and beta learn from, `seed` that of their division.
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
        self.lr, self.weight_decay, self.betas = lr, weight_decay, betas
        self.share, self.seed = share, seed
        self.architecture_rows: list[int] = []
        self.loss_scale = 1.0
        self.optimizer: Any = None
        self._restored: dict[str, Any] | None = None
        self._batches: Iterator[PoseBatch] = iter(())
        self._loader: Any = None

    def architecture_gradients(
        self, module: PoseModule, train_batch: PoseBatch, search_batch: PoseBatch
    ) -> tuple[list[Tensor], Float[Tensor, ""]]:
        """Gradients of the search loss at the current weights, ordered as by `architecture_of`; and that loss."""
        loss = functional_loss(module, dict(module.network.named_parameters()), search_batch)
        return self.gradients_of(loss, architecture_of(module)), loss.detach()

    def gradients_of(
        self, loss: Float[Tensor, ""], inputs: Sequence[Tensor], through: bool = False
    ) -> list[Tensor]:
        """Gradients of a loss, computed at the run's loss scale; zero for cells of shallow fabrics that reach no
        output. `through` keeps the graph, for second derivatives."""
        scaled = torch.autograd.grad(
            loss * self.loss_scale, list(inputs), create_graph=through, materialize_grads=True
        )
        return [gradient / self.loss_scale for gradient in scaled]

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        if not architecture_of(module):
            raise PnfsError("strategy: the model has no fabrics to search; use synchronous")
        data: PoseDataModule = trainer.datamodule  # type: ignore[attr-defined]
        _, self.architecture_rows = data.split_train(self.share, self.seed)
        # Without gradient in the weights' step, and so outside of what DDP reduces.
        freeze_architecture(module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.optimizer = torch.optim.Adam(
            architecture_of(pl_module), lr=self.lr, weight_decay=self.weight_decay, betas=self.betas
        )
        if self._restored is not None:
            if self._restored["architecture_rows"] != self.architecture_rows:
                keys = "strategy.share, strategy.seed and dataset must be those it was made with"
                raise PnfsError(f"the checkpoint divides the training persons otherwise: {keys}")
            self.optimizer.load_state_dict(self._restored["optimizer"])
        self._loader = trainer.datamodule.architecture_dataloader()  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._loader.sampler.set_epoch(trainer.current_epoch)
        self._batches = iter(())

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: PoseBatch, batch_idx: int
    ) -> None:
        if self.warming_up(trainer) or batch_idx % trainer.accumulate_grad_batches != 0:
            return
        module = pl_module
        assert isinstance(module, PoseModule)
        # Half precision loses small gradients: they are taken of the scaled loss, as the weights' are.
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.loss_scale = 1.0 if scaler is None else float(scaler.get_scale())
        data: PoseDataModule = trainer.datamodule  # type: ignore[attr-defined]
        found = next(self._batches, None)
        if found is None:
            # At an epoch's start, or where the search half is a little smaller than the other.
            self._batches = iter(self._loader)
            found = next(self._batches)
        found = move_data_to_device(found, module.device)
        search_batch = data.on_after_batch_transfer(found, dataloader_idx=0)
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
        # The mean over all processes: a callback's gradients bypass DDP's reduction.
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        mean = trainer.strategy.reduce(flat, reduce_op="mean")
        shares = mean.split([parameter.numel() for parameter in parameters])
        gradients = [share.view_as(p) for share, p in zip(shares, parameters, strict=True)]
        if scaler is None or all(bool(gradient.isfinite().all()) for gradient in gradients):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        module.log("architecture/loss", loss, on_step=False, on_epoch=True)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Ends its workers: the program's end would wait for them, and they ignore SIGTERM.
        self._loader, self._batches = None, iter(())

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        optimizer = {} if self.optimizer is None else self.optimizer.state_dict()
        return {"optimizer": optimizer, "architecture_rows": self.architecture_rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The optimiser exists only once training starts, on the right device.
        self._restored = state_dict if state_dict["optimizer"] else None


def functional_loss(module: PoseModule, parameters: dict[str, Tensor], batch: PoseBatch) -> Tensor:
    """The loss of the network with `parameters` in place of its own; running statistics stay."""
    network = module.network
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    part_maps = functional_call(network, (parameters, buffers), (batch["image"],))
    return module.loss(part_maps, batch, module.codec, network.map_joints)


class SecondOrder(FirstOrder):
    """The gradient of the search loss at w - xi * dL_train/dw, exactly, through the step (DARTS, Eq. 6).

    The weights themselves are never touched: the looked-ahead ones are tensors of their own. A step costs about
    four times the time and memory of a plain one.

    `unrolled_lr` is xi, None for the weights' current learning rate; for others see `FirstOrder`.
    """

    # Its functional calls put other tensors in the place of the weights at every step.
    compilable = False

    def __init__(
        self,
        unrolled_lr: float | None = None,
        lr: float = 0.003,
        weight_decay: float = 0.001,
        share: float = 0.5,
        seed: int = 0,
        warmup_epochs: int = 0,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        super().__init__(lr, weight_decay, share, seed, warmup_epochs, betas)
        self.unrolled_lr = unrolled_lr

    def architecture_gradients(
        self, module: PoseModule, train_batch: PoseBatch, search_batch: PoseBatch
    ) -> tuple[list[Tensor], Float[Tensor, ""]]:
        step = self.unrolled_lr
        if step is None:
            step = module.trainer.optimizers[0].param_groups[0]["lr"]
        parameters: dict[str, Tensor] = dict(module.network.named_parameters())
        trained = {id(p) for p in module.network.weight_parameters() if p.requires_grad}
        weights = {name: value for name, value in parameters.items() if id(value) in trained}
        train_loss = functional_loss(module, parameters, train_batch)
        gradients = self.gradients_of(train_loss, list(weights.values()), through=True)
        pairs = zip(weights.items(), gradients, strict=True)
        ahead = {name: value - step * gradient for (name, value), gradient in pairs}
        search_loss = functional_loss(module, parameters | ahead, search_batch)
        return self.gradients_of(search_loss, architecture_of(module)), search_loss.detach()

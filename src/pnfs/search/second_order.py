"""Second-order gradient search (DARTS): alpha and beta look one step of the weights ahead."""

from jaxtyping import Float
from torch import Tensor

from pnfs.search.bilevel import BilevelStrategy, architecture_names, functional_loss
from pnfs.search.strategy import architecture_of
from pnfs.training.module import PoseBatch, PoseModule


class SecondOrder(BilevelStrategy):
    """The gradient of the search loss at w - xi * dL_train/dw, exactly, through the step.

    After H. Liu, K. Simonyan, Y. Yang, DARTS (arXiv 1806.09055), Eq. 6; their finite-difference
    approximation is not needed. The weights themselves are never touched: the looked-ahead ones are
    tensors of their own. Costs about four times the time and memory of a plain step.

    Args:
        unrolled_lr: xi; None for the weights' current learning rate.
        lr: Learning rate of alpha and beta.
        weight_decay: Weight decay of alpha and beta.
        share: Share of the training persons that alpha and beta learn from.
        seed: Seed of the division of the training persons.
        warmup_epochs: First epochs in which alpha and beta stay as they are.
        betas: Decay rates of the Adam of alpha and beta.
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
        parameters = dict(module.network.named_parameters())
        architecture = set(architecture_names(module))
        weights = {
            name: value
            for name, value in parameters.items()
            if name not in architecture and value.requires_grad
        }
        train_loss = functional_loss(module, dict(parameters), train_batch)
        gradients = self.gradients_of(train_loss, list(weights.values()), through=True)
        ahead = {
            name: value - step * gradient
            for (name, value), gradient in zip(weights.items(), gradients, strict=True)
        }
        search_loss = functional_loss(module, parameters | ahead, search_batch)
        return self.gradients_of(search_loss, architecture_of(module)), search_loss.detach()

"""First-order gradient search (DARTS): alpha and beta follow the search half's own gradient."""

from jaxtyping import Float
from torch import Tensor

from pnfs.search.bilevel import BilevelStrategy, functional_loss
from pnfs.search.strategy import architecture_of
from pnfs.training.module import PoseBatch, PoseModule


class FirstOrder(BilevelStrategy):
    """The gradient of the search loss at the weights as they are (section III-F).

    After H. Liu, K. Simonyan, Y. Yang, DARTS: Differentiable Architecture Search (arXiv 1806.09055), with no
    discretisation afterwards. See `BilevelStrategy` for the arguments. One more forward and backward pass
    a step.
    """

    def architecture_gradients(
        self, module: PoseModule, train_batch: PoseBatch, search_batch: PoseBatch
    ) -> tuple[list[Tensor], Float[Tensor, ""]]:
        loss = functional_loss(module, dict(module.network.named_parameters()), search_batch)
        return self.gradients_of(loss, architecture_of(module)), loss.detach()

"""What search strategies share: a strategy is a callback that owns alpha and beta."""

import lightning as L

from pnfs.training.module import PoseModule


class SearchStrategy(L.Callback):
    """Decides what happens to the architecture parameters of a run.

    Subclasses fill in `prepare`, which is called once before the optimisers are made.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(pl_module, PoseModule):
            raise TypeError(f"a search strategy needs a PoseModule, got {type(pl_module).__name__}")
        self.prepare(pl_module)

    def prepare(self, module: PoseModule) -> None:
        """Sets initial values, freezes alpha and beta, or hands them to an optimiser."""
        raise NotImplementedError(f"{type(self).__name__} defines no prepare")


def freeze_architecture(module: PoseModule) -> None:
    """Keeps alpha and beta as they are: no gradient, in no optimiser."""
    module.architecture_group = None
    for parameter in module.network.architecture_parameters().values():
        parameter.requires_grad_(False)

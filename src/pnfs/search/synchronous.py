"""Synchronous search: alpha and beta are ordinary parameters of the weights' optimiser."""

import lightning as L

from pnfs.search.strategy import SearchStrategy
from pnfs.training.module import ArchitectureGroup, PoseModule


class Synchronous(SearchStrategy):
    """The paper's main strategy (section III-F): one optimiser, one loss, no split of the data.

    Args:
        lr_factor: Learning rate of alpha and beta relative to the weights'; 1 in the paper.
        weight_decay: Weight decay of alpha and beta; 0 in the paper.
        warmup_epochs: First epochs in which alpha and beta stay as they are.
    """

    def __init__(
        self, lr_factor: float = 1.0, weight_decay: float = 0.0, warmup_epochs: int = 0
    ) -> None:
        super().__init__(warmup_epochs)
        self.group = ArchitectureGroup(lr_factor=lr_factor, weight_decay=weight_decay)

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        module.architecture_group = self.group

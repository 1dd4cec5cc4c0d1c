"""Random architectures: alpha and beta are drawn once and stay."""

import lightning as L
import torch

from pnfs.search.strategy import SearchStrategy, architecture_of, freeze_architecture
from pnfs.training.module import PoseModule


class Random(SearchStrategy):
    """alpha, beta ~ N(0, 1), fixed for the whole run (Table II, five seeds).

    Args:
        seed: Seed of the draw; the same seed gives the same architecture, whatever the weights' seed.
        std: Standard deviation.
    """

    def __init__(self, seed: int = 0, std: float = 1.0) -> None:
        super().__init__()
        self.seed = seed
        self.std = std

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        for parameter in architecture_of(module):
            draw = torch.randn(parameter.shape, generator=generator) * self.std
            parameter.data.copy_(draw)
        freeze_architecture(module)

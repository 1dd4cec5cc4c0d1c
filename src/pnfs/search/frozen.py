"""Frozen architectures: uniform, or found by an earlier search."""

from pathlib import Path

import lightning as L

from pnfs.errors import PnfsError
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import load_architecture
from pnfs.search.strategy import SearchStrategy, architecture_of, freeze_architecture
from pnfs.training.checkpoints import read_architecture
from pnfs.training.module import PoseModule


class Frozen(SearchStrategy):
    """alpha and beta keep their values for the whole run; only weights are trained.

    With another backbone or dataset a found architecture can be used again, as long as the fabrics have
    the same parts, operations and cells.

    Args:
        architecture: JSON file of `pnfs train` or `pnfs derive`, checkpoint or run folder to take
            alpha and beta from; None for uniform weights.
    """

    def __init__(self, architecture: str | Path | None = None) -> None:
        super().__init__()
        self.architecture = architecture

    def prepare(self, module: PoseModule, trainer: L.Trainer) -> None:
        if self.architecture is None:
            for parameter in architecture_of(module):
                parameter.data.zero_()
        else:
            if not isinstance(module.network, PoseFabricNetwork):
                raise PnfsError(
                    f"architecture={self.architecture}: the model is a baseline without fabrics; use "
                    "architecture=null"
                )
            load_architecture(module.network, read_architecture(self.architecture))
        freeze_architecture(module)

"""A fabric of one cell whose best architecture is known: the identity solves the task.

`python search_toy.py FOLDER PROCESSES BATCH_SIZE` searches it by first order in one or two processes, and writes
what each process ends with.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pnfs.body import Skeleton
from pnfs.codec import Codec
from pnfs.data.module import PoseDataModule
from pnfs.evaluation.pck import PCK
from pnfs.models import NeuralFabrics, PoseNetwork
from pnfs.models.layers import PartConv2d
from pnfs.models.operations import Operation, Skip
from pnfs.search import FirstOrder, SearchStrategy
from pnfs.training.module import PoseModule
from pnfs.training.schedules import StepSchedule

SIZE = 32
TRIANGLE = Skeleton(name="triangle", joints=("a", "b", "c"), flip_pairs=())


class Shift(Operation):
    """A 3x3 convolution without normalisation: learns, but cannot be the identity at first."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()
        self.conv = PartConv2d(parts, channels, channels, 3)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.conv(x) * weight


class ToyNetwork(PoseNetwork):
    """The image's colours are the target maps; one cell stands between them and the output."""

    def __init__(self) -> None:
        super().__init__(TRIANGLE)  # type: ignore[arg-type]
        self.cells = NeuralFabrics(
            layers=1, input_scales=(4,), channels=1, operations={"zero": None, "skip": Skip, "shift": Shift}
        )
        output = self.cells.cells["layer1_scale4"].get_submodule("cell.output")
        # The cell's output is what its one hidden node holds, and stays so.
        output.weight.data = torch.eye(4).view(4, 4, 1, 1)
        output.bias.data.zero_()
        output.requires_grad_(False)
        # A weight that matters a little, so that there is something to look ahead to.
        self.gain = nn.Parameter(torch.tensor(0.9))

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        crops = images.permute(0, 3, 1, 2) / 255  # uint8 (B, h, w, 3)
        maps = F.pad(F.avg_pool2d(crops, 4), (0, 0, 0, 0, 0, 1))
        return self.gain * self.cells({4: maps})[4][:, :3]


class ToyPeople(Dataset):
    """Three joints a person, and a picture whose channels are their target maps."""

    def __init__(self, count: int) -> None:
        random = np.random.default_rng(7)
        self.joints = random.uniform(4, SIZE - 4, (count, 3, 2)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, key: Any) -> Mapping[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        joints = torch.from_numpy(self.joints[index])
        labelled = torch.ones(1, 3, dtype=torch.bool)
        maps, _ = Codec().targets(joints[None], labelled, (SIZE // 4, SIZE // 4))
        picture = F.interpolate(maps, scale_factor=4, mode="nearest")[0].permute(1, 2, 0)
        return {
            "image": (picture * 255).round().to(torch.uint8), "joints_crop": joints, "joints_image": joints,
            "labelled": torch.ones(3, dtype=torch.bool), "to_image": torch.eye(2, 3),
            "reference_length": torch.tensor(8.0), "sample_index": torch.tensor(index),
        }  # fmt: skip


class ToySource:
    """What a data module asks of a dataset."""

    skeleton = TRIANGLE

    def __init__(self, count: int) -> None:
        self.people = ToyPeople(count)

    def persons(self, split: str) -> Any:
        return self.people

    def metric(self, split: str) -> PCK:
        return PCK(joints=TRIANGLE.joints, groups={}, thresholds=(0.5,))


class ToyData(PoseDataModule):
    """The toy people behind the interface of the real data module."""

    def __init__(self, count: int = 32, batch_size: int = 4, seed: int = 0) -> None:
        options: Any = {"input_size": (SIZE, SIZE), "batch_size": batch_size, "workers": 0}
        super().__init__(dataset=ToySource(count), seed=seed, **options)

    def _train_loader(self, rows: list[int] | None, seed: int, augment: str) -> DataLoader:
        people: Any = self.dataset.people  # type: ignore[attr-defined]
        rows = list(range(len(people))) if rows is None else rows
        return self._loader(people, rows, seed, self.batch_size, train=True)


def toy_module(lr: float = 1e-2) -> PoseModule:
    """The same weights at every call."""
    torch.manual_seed(3)
    return PoseModule(
        network=ToyNetwork(),
        metric=ToySource(1).metric("val"),
        optimizer=lambda groups: torch.optim.Adam(groups, lr=lr),
        schedule=StepSchedule(milestones=()),
    )


def toy_fit(
    search: SearchStrategy,
    module: PoseModule | None = None,
    *,
    epochs: int = 1,
    data: PoseDataModule | None = None,
    resume: Path | None = None,
    **trainer_options: Any,
) -> tuple[PoseModule, L.Trainer]:
    """Trains the toy with a search strategy on the CPU."""
    module = toy_module() if module is None else module
    silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
              "use_distributed_sampler")  # fmt: skip
    options = {"accelerator": "cpu", "devices": 1, "max_epochs": epochs, "callbacks": [search]}
    options |= {"limit_val_batches": 0, **dict.fromkeys(silent, False), **trainer_options}
    trainer = L.Trainer(**options)
    trainer.fit(module, datamodule=data or ToyData(), ckpt_path=resume, weights_only=True)
    return module, trainer


if __name__ == "__main__":
    folder, processes, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    way = {"devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    found, fitted = toy_fit(FirstOrder(lr=0.1), epochs=2, data=ToyData(32, size), **way)
    losses = {"training loss": fitted.callback_metrics["train/loss_epoch"].cpu()}
    state = losses | {name: value.cpu() for name, value in found.network.state_dict().items()}
    torch.save(state, folder / f"processes{processes}_rank{fitted.global_rank}.pt")

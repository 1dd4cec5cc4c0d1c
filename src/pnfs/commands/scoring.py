"""What `train` and `evaluate` share: scores of a split, and pictures to look at."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import TQDMProgressBar

from pnfs.codec.decode import decode
from pnfs.data.module import PoseDataModule
from pnfs.models.architecture import describe_architecture, to_json
from pnfs.training.module import PoseModule
from pnfs.viz.curves import plot_curves
from pnfs.viz.fabrics import draw_fabrics
from pnfs.viz.poses import pose_sheet, save_image

SHEET_SIZE = 32
"""Persons on a contact sheet."""


def score(
    module: PoseModule, data: PoseDataModule, trainer: Mapping[str, Any], split: str
) -> dict[str, float]:
    """Scores of a split, name -> value, the one that counts first."""
    tester: L.Trainer = instantiate(
        trainer,
        logger=False,
        enable_checkpointing=False,
        callbacks=[TQDMProgressBar(refresh_rate=20)],
        use_distributed_sampler=False,
    )
    results = tester.validate(module, data.eval_dataloader(split), verbose=False)[0]
    prefix = "val/"
    left_out = ("loss", "score")
    return {
        name.removeprefix(prefix): float(value)
        for name, value in results.items()
        if name.removeprefix(prefix) not in left_out
    }


@torch.no_grad()
def write_pictures(
    module: PoseModule, data: PoseDataModule, folder: Path, split: str
) -> dict[str, Path]:
    """Contact sheet of predictions, curves, diagram of the fabrics and the data behind it."""
    module.eval()
    dataset = data.dataset(split)
    # Spread over the split, the same persons in every run.
    rows = np.unique(np.linspace(0, len(dataset) - 1, SHEET_SIZE).astype(int))
    batch = torch.utils.data.default_collate([dataset[int(row)] for row in rows])
    on_device = {name: value.to(module.device) for name, value in batch.items()}
    _, maps = module.score_maps(on_device)  # type: ignore[arg-type]
    locations, scores = decode(maps, module.decode_method)
    sheet = pose_sheet(
        batch["image"].numpy(),
        (locations * module.network.stride).cpu().numpy(),
        skeleton=module.network.parts.skeleton,
        scores=scores.cpu().numpy(),
        target=batch["joints"].numpy(),
        labelled=batch["labelled"].numpy(),
        captions=[str(data.source.persons(split).ids[row]) for row in rows],
    )
    written = {"predictions": folder / f"predictions_{split}.png"}
    save_image(written["predictions"], sheet)
    architecture = describe_architecture(module.network)
    written["architecture data"] = folder / "architecture.json"
    written["architecture data"].write_text(to_json(architecture))
    written["architecture"] = folder / "architecture.png"
    draw_fabrics(architecture, written["architecture"])
    if (folder / "metrics.csv").is_file():
        written["curves"] = folder / "curves.png"
        plot_curves(folder / "metrics.csv", written["curves"])
    return written

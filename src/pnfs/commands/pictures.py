"""Pictures of what a network predicts while it is trained."""

from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.loggers import WandbLogger
from torch.utils.data import default_collate

from pnfs.commands.report import log_media, sheet_of
from pnfs.data.crops import CropDataset
from pnfs.data.persons import Persons
from pnfs.data.predictions import Matches, Predictions, one_to_one
from pnfs.training.module import PoseModule
from pnfs.viz.style import save_image


class ValidationPictures(L.Callback):
    """Draws the predictions of `persons` validation persons, the same ones every `every` epochs.

    TensorBoard and Weights & Biases show the sheets, `folder`/epoch_0004.png, ...; the latter gets a table too, a
    row a person: crop with skeleton, id, mean error in the metric's unit.
    """

    def __init__(self, folder: Path | str, every: int = 5, persons: int = 16) -> None:
        super().__init__()
        self.folder, self.every, self.persons = Path(folder), every, persons

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        due = trainer.state.fn == "fit" and not trainer.sanity_checking and epoch % self.every == 0
        if not due or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, PoseModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        crops, persons = data.dataset("val"), data.source.persons("val")
        rows = np.unique(np.linspace(0, len(persons) - 1, self.persons).astype(int))
        matches = predicted_rows(pl_module, crops, persons, rows)
        ids = [str(persons.ids[row]) for row in rows]
        path = self.folder / f"epoch_{epoch:04d}.png"
        save_image(path, sheet_of(crops, matches, rows, ids))
        log_media(trainer.loggers, {"predictions while training": path}, epoch)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                columns = ["picture", "id", "error", "epoch"]
                lines = _lines(crops, matches, rows, ids, epoch)
                logger.log_table("validation persons", columns=columns, data=lines)


def predicted_rows(
    module: PoseModule, crops: CropDataset, persons: Persons, rows: np.ndarray
) -> Matches:
    """Predictions of some persons; the others have none."""
    chosen = default_collate([crops[int(row)] for row in rows])
    batch = move_data_to_device(chosen, module.device)
    with torch.no_grad():
        locations, scores = module.locate(module.network(batch["image"]), batch)
    shape = (len(persons), len(persons.skeleton))
    predictions = Predictions(np.full((*shape, 2), np.nan, np.float32), np.zeros(shape, np.float32))
    predictions.locations[rows] = locations.float().cpu().numpy()
    predictions.scores[rows] = scores.float().cpu().numpy()
    return one_to_one(persons, predictions)


def _lines(
    crops: CropDataset, matches: Matches, rows: np.ndarray, ids: list[str], epoch: int
) -> list[list]:
    import wandb  # An extra, not always installed.

    found, means = matches.errors.by_error()
    errors = dict(zip(found.tolist(), means.tolist(), strict=True))
    return [
        [
            wandb.Image(sheet_of(crops, matches, np.array([row]), [name])),
            name,
            errors.get(int(row)),
            epoch,
        ]
        for row, name in zip(rows, ids, strict=True)
    ]

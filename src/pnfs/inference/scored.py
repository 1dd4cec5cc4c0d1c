"""A predictor as a LightningModule, so that an exported file is scored as a checkpoint is."""

import lightning as L
from torchmetrics import Metric, MetricCollection

from pnfs.data.crops import PoseBatch
from pnfs.inference.predictor import Predictor


class ScoredPredictor(L.LightningModule):
    """Scores what a predictor makes of a loader's crops; it cannot be trained.

    Args:
        predictor: Runs the network on the CPU.
        metric: The benchmark's score; its first entry is logged as "val/score".
        flip_test: Average with the mirrored crops.
    """

    def __init__(self, predictor: Predictor, metric: Metric, flip_test: bool) -> None:
        super().__init__()
        self.predictor = predictor
        self.codec = predictor.codec
        self.metric = MetricCollection([metric])
        self.flip_test = flip_test

    def validation_step(self, batch: PoseBatch, batch_idx: int) -> None:
        locations, scores = self.predictor.locate(
            batch["image"].numpy(), batch["to_image"], flip_test=self.flip_test
        )
        self.metric.update(predicted=locations, scores=scores, **batch)

    def on_validation_epoch_end(self) -> None:
        scores = self.metric.compute()
        self.metric.reset()
        self.log_dict({f"val/{name}": value for name, value in scores.items()})
        self.log("val/score", next(iter(scores.values())))

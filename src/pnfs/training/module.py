"""The LightningModule: loss, optimiser, validation; knows nothing of search strategies."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection

from pnfs.codec import Codec, to_image
from pnfs.data.crops import PoseBatch
from pnfs.errors import PnfsError
from pnfs.models import PoseNetwork
from pnfs.models.layers import shifted_sums
from pnfs.training.loss import HeatmapLoss
from pnfs.training.schedules import Schedule, StepSchedule

CompileMode = Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs"]


class NonFiniteLossError(PnfsError):
    """A loss became nan or infinite; the message says where."""


@dataclass(frozen=True)
class ArchitectureGroup:
    """How alpha and beta take part in the weights' optimiser: learning rate as a multiple, and weight decay."""

    lr_factor: float = 1.0
    weight_decay: float = 0.0


class PoseModule(L.LightningModule):
    """Trains and evaluates a pose network.

    Args:
        network: The model.
        metric: The benchmark's score for validation, higher is better; its first entry is logged as "val/score".
        optimizer: Makes the optimiser from parameter groups.
        schedule: Makes the learning-rate schedule.
        loss: On heatmaps.
        codec: From joints to target heatmaps, and from heatmaps to joints.
        flip_test: Average with the mirrored image in evaluation.

    Raises:
        ValueError: Lower values of the metric are better; the best checkpoint would be the worst.
    """

    architecture_group: ArchitectureGroup | None = None
    """Set by a search strategy whose alpha and beta are trained by this optimiser."""

    def __init__(
        self,
        *,
        network: PoseNetwork,
        metric: Metric,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        schedule: Schedule | None = None,
        loss: HeatmapLoss | None = None,
        codec: Codec | None = None,
        flip_test: bool = False,
    ) -> None:
        super().__init__()
        if metric.higher_is_better is False:
            raise PnfsError(
                f"{type(metric).__name__} says higher_is_better=False, but the checkpoint with the highest "
                "score is kept as the best: return the negative value"
            )
        self.network = network
        self.metric = MetricCollection([metric])
        self.loss: nn.Module = HeatmapLoss() if loss is None else loss
        self.codec = Codec() if codec is None else codec
        self.flip_test = flip_test
        # Name, value, rows of the persons, and where it stands in the run.
        self._losses: list[tuple[str, Tensor, Tensor, str]] = []
        self._training_network: Callable[[Tensor], Tensor] = self.network.forward
        self._make_optimizer = optimizer
        self._schedule = StepSchedule() if schedule is None else schedule

    def compile_training(self, mode: CompileMode = "default") -> None:
        """Compiles the network for training steps; validation, with its odd last batch, stays eager.

        The mode is `torch.compile`'s; "reduce-overhead" replays CUDA graphs, for small batches.
        """
        for layer in self.network.modules():
            if isinstance(layer, nn.Upsample) and not layer.align_corners:
                layer.forward = shifted_sums  # type: ignore[method-assign]
        # The bound method, not the module: compiled modules rename the entries of their state dict.
        self._training_network = torch.compile(self.network.forward, dynamic=False, mode=mode)

    def training_step(self, batch: PoseBatch, batch_idx: int) -> Tensor:
        part_maps = self._training_network(batch["image"])
        loss = self.loss(part_maps, batch, self.codec, self.network.map_joints)
        self.log("train/loss_step", loss, prog_bar=True)
        # Gathered from all processes once an epoch; a step's loss is the first process's.
        self.log(
            "train/loss_epoch", loss, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True
        )
        return loss

    def on_train_batch_start(self, batch: PoseBatch, batch_idx: int) -> None:
        self._at = batch, batch_idx

    def on_before_backward(self, loss: Tensor) -> None:
        self.watch_loss("training", loss, *self._at)

    def on_train_batch_end(self, outputs: Any, batch: PoseBatch, batch_idx: int) -> None:
        if self.trainer.is_last_batch:
            # Before the epoch is validated or kept.
            self._look_at_losses()

    def watch_loss(self, name: str, loss: Tensor, batch: PoseBatch, batch_idx: int) -> None:
        """Stops the training at the first loss that is not finite; on a GPU at the next look at them.

        Raises:
            NonFiniteLossError: Names epoch, step, persons and learning rate.
        """
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        where = (
            f"epoch {self.trainer.current_epoch}, step {self.trainer.global_step} (batch {batch_idx} of the "
            f"epoch), learning rate {lr:g}"
        )
        self._losses.append((name, loss.detach(), batch["sample_index"], where))
        if len(self._losses) >= losses_between_looks(loss):
            self._look_at_losses()

    def _look_at_losses(self) -> None:
        seen, self._losses = self._losses, []
        # One transfer for all of them.
        finite = torch.stack([value for _, value, _, _ in seen]).isfinite().tolist() if seen else []
        if all(finite):
            return
        name, value, rows, where = seen[finite.index(False)]
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        known = None if data is None else data.source.persons("train").ids
        ids = [f"row {row}" if known is None else str(known[row]) for row in rows.tolist()]
        raise NonFiniteLossError(
            f"the {name} loss is {float(value)} in {where}; persons of the batch: {', '.join(ids)}. Training "
            "stopped: look at these persons (pnfs data out=<folder>), or choose a smaller optimizer.lr, "
            "trainer.gradient_clip_val, or trainer.precision=32-true"
        )

    def validation_step(self, batch: PoseBatch, batch_idx: int) -> None:
        part_maps = self.network(batch["image"])
        loss = self.loss(part_maps, batch, self.codec, self.network.map_joints)
        self.log("val/loss", loss, batch_size=len(part_maps), sync_dist=True)
        joints, scores = self.locate(part_maps, batch)
        self.metric.update(predicted=joints, scores=scores, **batch)

    def locate(
        self, part_maps: Float[Tensor, "B J h w"], batch: PoseBatch
    ) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
        """Joints in pixels of the image, and their scores; after the flip test, if there is one."""
        maps = self.network.merged(part_maps)
        if self.flip_test:
            mirrored = self.network.heatmaps(batch["image"].flip(-2))  # (B, h, w, 3)
            permutation = self.network.parts.skeleton.flip_permutation
            maps = self.codec.flip_averaged(maps, mirrored, permutation)
        locations, scores = self.codec.decode(maps)
        return to_image(locations, batch["to_image"]), scores

    def on_validation_epoch_end(self) -> None:
        scores = self.metric.compute()
        self.metric.reset()
        # The metric has gathered the states of all processes already.
        self.log_dict({f"val/{name}": value for name, value in scores.items()})
        self.log("val/score", next(iter(scores.values())), prog_bar=True)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> dict[str, Any]:
        groups: list[dict[str, Any]] = [{"params": self.network.weight_parameters()}]
        optimizer = self._make_optimizer(groups)
        architecture = list(self.network.architecture_parameters().values())
        if self.architecture_group is not None and architecture:
            lr = optimizer.param_groups[0]["lr"] * self.architecture_group.lr_factor
            decay = self.architecture_group.weight_decay
            group = {"params": architecture, "lr": lr, "weight_decay": decay}
            optimizer.add_param_group(group)
        epochs = max(1, self.trainer.max_epochs or 1)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = self._schedule.build(optimizer, epochs=epochs, steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Loads a checkpoint's `state_dict` (entries of the network only)."""
        load_network_state(self.network, state)


def losses_between_looks(loss: Tensor) -> int:
    """How many losses are kept before they are read: a GPU need not wait at every step."""
    return 1 if loss.device.type == "cpu" else 50


def load_network_state(network: PoseNetwork, state: Mapping[str, Tensor]) -> None:
    """Loads the network's entries of a `PoseModule`'s `state_dict`."""
    prefix = "network."
    network.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )

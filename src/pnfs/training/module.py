"""The LightningModule: loss, optimiser, validation; knows nothing of search strategies."""

import ctypes
import platform
from collections.abc import Callable, Iterable
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

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
LOOK_AFTER = {"cpu": 1}  # Losses that are kept before they are read: a GPU need not wait each step.


class NonFiniteLossError(PnfsError):
    """A loss became nan or infinite; the message says where."""


class PoseModule(L.LightningModule):
    """Trains and evaluates a pose network; `schedule`, `loss` and `codec` are the paper's where they are None.

    `metric` is the benchmark's score for validation, higher is better (else PnfsError), whose first entry is
    logged as "val/score"; `optimizer` makes the optimiser from parameter groups; `flip_test` averages with the
    mirrored image in evaluation.
    """

    architecture_group: tuple[float, float] | None = None
    """Set by a search strategy whose alpha and beta are trained by this optimiser: learning rate as a multiple of
    the weights', and weight decay."""

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
            text = "higher_is_better=False, but the highest score is kept as the best: return the negative"
            raise PnfsError(f"{type(metric).__name__}: {text}")
        self.network, self.metric = network, MetricCollection([metric])
        self.loss: nn.Module = HeatmapLoss() if loss is None else loss
        self.codec, self.flip_test = codec or Codec(), flip_test
        # Name, value, rows of the persons, and where it stands in the run.
        self._losses: list[tuple[str, Tensor, Tensor, str]] = []
        self._training_network: Callable[[Tensor], Tensor] = self.network.forward
        self._make_optimizer, self._schedule = optimizer, schedule or StepSchedule()

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
        self.log("train/loss_epoch", loss, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True)
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
        trainer, lr = self.trainer, self.trainer.optimizers[0].param_groups[0]["lr"]
        place = f"epoch {trainer.current_epoch}, step {trainer.global_step} (batch {batch_idx} of the epoch)"
        where = f"{place}, learning rate {lr:g}"
        self._losses.append((name, loss.detach(), batch["sample_index"], where))
        if len(self._losses) >= LOOK_AFTER.get(loss.device.type, 50):
            self._look_at_losses()

    def _look_at_losses(self) -> None:
        seen, self._losses = self._losses, []
        # One transfer for all of them.
        finite = torch.stack([value for _, value, _, _ in seen]).isfinite().tolist() if seen else []
        if all(finite):
            return
        name, value, rows, where = seen[finite.index(False)]
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        known = None if data is None else data.dataset.persons("train").ids
        ids = [f"row {row}" if known is None else str(known[row]) for row in rows.tolist()]
        raise NonFiniteLossError(
            f"the {name} loss is {float(value)} in {where}; persons of the batch: {', '.join(ids)}. Look at them "
            "(pnfs data out=<folder>), or choose a smaller optimizer.lr (schedule.peak of one_cycle), "
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

    def configure_optimizers(self) -> dict[str, Any]:
        groups: list[dict[str, Any]] = [{"params": self.network.weight_parameters()}]
        optimizer, searched = self._make_optimizer(groups), self.architecture_group
        architecture = list(self.network.architecture_parameters().values())
        if searched is not None and architecture:
            lr_factor, weight_decay = searched
            lr = optimizer.param_groups[0]["lr"] * lr_factor
            optimizer.add_param_group({"params": architecture, "lr": lr, "weight_decay": weight_decay})
        epochs = max(1, self.trainer.max_epochs or 1)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = self._schedule.build(optimizer, epochs=epochs, steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def keep_freed_memory() -> bool:
    """Keeps freed memory in this process, and in those that it forks; False where there is no glibc.

    glibc returns large blocks when they are freed, and activations are large: the next training step, or the
    next picture, then waits for the system to hand out and clear the same pages again.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's malloc.h.
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(-3, 2**31 - 1) and mallopt(-1, 2**31 - 1))

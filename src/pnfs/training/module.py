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

from pnfs.codec.decode import DecodeMethod, decode, to_image
from pnfs.codec.targets import RADIUS, gaussian_targets
from pnfs.data.crops import PoseBatch
from pnfs.data.geometry import heatmap_stride
from pnfs.evaluation.flip import average_with_flip
from pnfs.models import PoseNetwork
from pnfs.training.finite import LossWatch, NonFiniteLossError, SeenLoss, describe_loss
from pnfs.training.loss import ScoreMapLoss
from pnfs.training.schedules import Schedule, StepSchedule

CompileMode = Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs"]


@dataclass(frozen=True)
class ArchitectureGroup:
    """How alpha and beta take part in the weights' optimiser.

    Args:
        lr_factor: Times the weights' learning rate.
        weight_decay: Of alpha and beta.
    """

    lr_factor: float = 1.0
    weight_decay: float = 0.0


class PoseModule(L.LightningModule):
    """Trains and evaluates a pose network.

    Args:
        network: The model.
        metric: The benchmark's score for validation, higher is better; its first entry is logged as "val/score".
        optimizer: Makes the optimiser from parameter groups.
        schedule: Makes the learning-rate schedule.
        loss: On score maps.
        sigma: Standard deviation of the target Gaussians, in heatmap pixels.
        quantised: Put targets on whole heatmap pixels, as HRNet does.
        radius: Half the side of the square that holds a target Gaussian, in sigma; None for no bound.
        unbiased: The crops' geometry, which decides where a joint lies on the score maps; see `crop_matrix`.
        decode_method: From score maps to locations.
        flip_test: Average with the mirrored image in evaluation.
        flip_shift: Pixels by which the mirrored maps move to the right, 0 or 1.

    Attributes:
        architecture_group: Set by a search strategy whose alpha and beta are trained by this optimiser;
            None keeps them out of it.

    Raises:
        ValueError: Lower values of the metric are better; the best checkpoint would be the worst.
    """

    def __init__(
        self,
        *,
        network: PoseNetwork,
        metric: Metric,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        schedule: Schedule | None = None,
        loss: ScoreMapLoss | None = None,
        sigma: float = 2.0,
        quantised: bool = True,
        radius: float | None = RADIUS,
        unbiased: bool = False,
        decode_method: DecodeMethod = "quarter",
        flip_test: bool = False,
        flip_shift: Literal[0, 1] = 1,
    ) -> None:
        super().__init__()
        if metric.higher_is_better is False:
            raise ValueError(
                f"{type(metric).__name__} says higher_is_better=False, but the checkpoint with the highest "
                "score is kept as the best: return the negative value"
            )
        self.network = network
        self.metric = MetricCollection([metric])
        self.loss: nn.Module = ScoreMapLoss() if loss is None else loss
        self.sigma = sigma
        self.quantised = quantised
        self.radius = radius
        self.unbiased = unbiased
        self.decode_method: DecodeMethod = decode_method
        self.flip_test = flip_test
        self.flip_shift: Literal[0, 1] = flip_shift
        self.architecture_group: ArchitectureGroup | None = None
        self._training_network: Callable[[Tensor], Tensor] = self.network.forward
        self._losses = LossWatch()
        self._make_optimizer = optimizer
        self._schedule = StepSchedule() if schedule is None else schedule

    def normalised(self, batch: PoseBatch) -> Float[Tensor, "B 3 h w"]:
        """The network's input, in the precision of its weights."""
        return self.network.normalise(batch["image"], next(self.network.parameters()).dtype)

    def training_loss(self, batch: PoseBatch) -> Float[Tensor, ""]:
        """The loss of a batch; what a strategy takes the gradient of."""
        return self.loss_of_maps(self._training_network(self.normalised(batch)), batch)

    def compile_training(self, mode: CompileMode = "default") -> None:
        """Compiles the network for training steps; validation, with its odd last batch, stays eager.

        Args:
            mode: Of `torch.compile`; "reduce-overhead" replays CUDA graphs, for small batches.
        """
        # The bound method, not the module: compiled modules rename the entries of their state dict.
        self._training_network = torch.compile(self.network.forward, dynamic=False, mode=mode)

    def training_step(self, batch: PoseBatch, batch_idx: int) -> Tensor:
        loss = self.training_loss(batch)
        self.watch_loss("training", loss, batch, batch_idx)
        self.log("train/loss_step", loss, prog_bar=True)
        # Gathered from all processes once an epoch; a step's loss is the first process's.
        self.log(
            "train/loss_epoch", loss, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True
        )
        return loss

    def watch_loss(self, name: str, loss: Tensor, batch: PoseBatch, batch_idx: int) -> None:
        """Stops the training at the first loss that is not finite; on a GPU at the next look at them.

        Args:
            name: Name of the loss, for the message.
            loss: A number.
            batch: What it is the loss of.
            batch_idx: In the epoch.

        Raises:
            NonFiniteLossError: Names epoch, step, persons and learning rate.
        """
        if self._trainer is None:
            return
        seen = SeenLoss(
            name=name,
            value=loss.detach(),
            rows=batch["sample_index"],
            epoch=self.trainer.current_epoch,
            step=self.trainer.global_step,
            batch=batch_idx,
            lr=self.trainer.optimizers[0].param_groups[0]["lr"],
        )
        self._raise_for(self._losses.see(seen))

    def on_train_batch_end(self, outputs: Any, batch: PoseBatch, batch_idx: int) -> None:
        if self.trainer.is_last_batch:
            # Before the epoch is validated or kept.
            self._raise_for(self._losses.look())

    def _raise_for(self, loss: SeenLoss | None) -> None:
        if loss is None:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = loss.rows.tolist()
        known = None if data is None else data.source.persons("train").ids
        ids = [f"row {row}" if known is None else str(known[row]) for row in rows]
        raise NonFiniteLossError(describe_loss(loss, ids))

    def validation_step(self, batch: PoseBatch, batch_idx: int) -> None:
        part_maps, maps = self.score_maps(batch)
        self.log(
            "val/loss", self.loss_of_maps(part_maps, batch), batch_size=len(maps), sync_dist=True
        )
        locations, scores = self.locate(maps, batch)
        self.metric.update(predicted=locations, scores=scores, **batch)

    def on_validation_epoch_end(self) -> None:
        scores = self.metric.compute()
        self.metric.reset()
        # The metric has gathered the states of all processes already.
        self.log_dict({f"val/{name}": value for name, value in scores.items()})
        self.log("val/score", next(iter(scores.values())), prog_bar=True)

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()

    def score_maps(
        self, batch: PoseBatch
    ) -> tuple[Float[Tensor, "B J h w"], Float[Tensor, "B K h w"]]:
        """Maps of all parts' joints, and one map a joint; the second after the flip test."""
        images = self.normalised(batch)
        part_maps = self.network(images)
        maps = self.network.joint_maps(part_maps)
        if self.flip_test:
            mirrored = self.network.joint_maps(self.network(images.flip(-1)))
            permutation = self.network.parts.skeleton.flip_permutation
            maps = average_with_flip(maps, mirrored, permutation, self.flip_shift)
        return part_maps, maps

    def locate(
        self, maps: Float[Tensor, "B K h w"], batch: PoseBatch
    ) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
        """Joints in pixels of the image, and their scores."""
        locations, scores = decode(maps, self.decode_method, sigma=self.sigma)
        return to_image(locations, batch["to_image"], self.heatmap_stride(maps)), scores

    def heatmap_stride(self, maps: Float[Tensor, "B J h w"]) -> tuple[float, float]:
        """Crop pixels for each pixel of the score maps, along x and y."""
        height, width = maps.shape[-2:]
        stride = self.network.stride
        return heatmap_stride((height * stride, width * stride), (height, width), self.unbiased)

    def loss_of_maps(
        self, part_maps: Float[Tensor, "B J h w"], batch: PoseBatch
    ) -> Float[Tensor, ""]:
        """The loss of given score maps against the targets of a batch."""
        targets, weights = gaussian_targets(
            batch["joints_crop"],
            batch["labelled"],
            heatmap_size=(part_maps.shape[-2], part_maps.shape[-1]),
            stride=self.heatmap_stride(part_maps),
            sigma=self.sigma,
            quantised=self.quantised,
            radius=self.radius,
        )
        return self.loss(part_maps, targets, weights, self.network.map_joints)

    def configure_optimizers(self) -> dict[str, Any]:
        groups: list[dict[str, Any]] = [{"params": self.network.weight_parameters()}]
        optimizer = self._make_optimizer(groups)
        architecture = list(self.network.architecture_parameters().values())
        if self.architecture_group is not None and architecture:
            optimizer.add_param_group(
                {
                    "params": architecture,
                    "lr": optimizer.param_groups[0]["lr"] * self.architecture_group.lr_factor,
                    "weight_decay": self.architecture_group.weight_decay,
                }
            )
        epochs = self.trainer.max_epochs
        schedule = self._schedule.build(
            optimizer,
            epochs=epochs if epochs is not None and epochs > 0 else 1,
            steps=int(self.trainer.estimated_stepping_batches),
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Loads a checkpoint's `state_dict` (entries of the network only)."""
        load_network_state(self.network, state)


def load_network_state(network: PoseNetwork, state: Mapping[str, Tensor]) -> None:
    """Loads the network's entries of a `PoseModule`'s `state_dict`."""
    prefix = "network."
    network.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )


def move_batch(batch: PoseBatch, device: torch.device) -> PoseBatch:
    """The batch on `device`."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}  # type: ignore

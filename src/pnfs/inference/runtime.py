"""What runs the network: crops in, score maps out."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pnfs.models import PoseNetwork


class Runtime(Protocol):
    """Anything that turns crops into one score map a joint."""

    def __call__(
        self, images: UInt8[np.ndarray, "B h w 3"]
    ) -> Float[Tensor, "B K h/4 w/4"] | Float[np.ndarray, "B K h/4 w/4"]:
        """Score maps of RGB crops, joints in the skeleton's order."""
        ...


@dataclass(frozen=True)
class PartOutputs:
    """What lies behind the joints' score maps, part after part, J = sum(J_p) >= K."""

    vectors: Float[Tensor, "B J d h/4 w/4"]
    """Raw vectors of the parts' joints."""
    part_maps: Float[Tensor, "B J h/4 w/4"]
    """Their score maps; before maps of one joint are put together."""
    joint_maps: Float[Tensor, "B K h/4 w/4"]
    """One map a joint."""


class TorchRuntime:
    """The network in PyTorch.

    Args:
        network: The model; set to evaluation mode and moved to `device`.
        device: Where it runs.
    """

    def __init__(self, network: PoseNetwork, device: torch.device | str = "cpu") -> None:
        self.network = network.eval().to(device)
        self.device = torch.device(device)
        self.names = [
            f"{part}: {joint}" for part, joints in network.parts.parts.items() for joint in joints
        ]
        """Of the maps of `PartOutputs`: part and joint."""

    @torch.inference_mode()
    def __call__(self, images: UInt8[np.ndarray, "B h w 3"]) -> Float[Tensor, "B K h/4 w/4"]:
        return self.network.crops_to_maps(torch.as_tensor(images).to(self.device))

    @torch.inference_mode()
    def details(self, images: UInt8[np.ndarray, "B h w 3"]) -> PartOutputs:
        """Vectors and score maps of every part, of the crops as they are (no flip test)."""
        vectors = self.network.vectors(self._normalised(images))
        part_maps = self.network.head.scores(vectors)
        return PartOutputs(vectors, part_maps, self.network.joint_maps(part_maps))

    def _normalised(self, images: UInt8[np.ndarray, "B h w 3"]) -> Float[Tensor, "B 3 h w"]:
        dtype = next(self.network.parameters()).dtype
        return self.network.normalise(torch.as_tensor(images).to(self.device), dtype)


def choose_device(device: str) -> torch.device:
    """The device a user names; "auto" is the first accelerator, else the CPU.

    Raises:
        ValueError: There is no such device on this machine.
    """
    if device == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if found is None else found
    try:
        chosen = torch.device(device)
        # Constructing a tensor is the only check that holds for every kind of device.
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {device!r} cannot be used here ({reason}); take auto, cpu or cuda"
        ) from error
    return chosen

"""What runs the network: crops in, heatmaps out."""

from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pnfs.errors import PnfsError
from pnfs.models import PoseNetwork
from pnfs.models.network import Stage


class Runtime(Protocol):
    """Anything that turns crops into one heatmap a joint."""

    def __call__(
        self, images: UInt8[np.ndarray, "B h w 3"]
    ) -> Float[Tensor, "B K h/4 w/4"] | Float[np.ndarray, "B K h/4 w/4"]:
        """Heatmaps of RGB crops, joints in the skeleton's order."""
        ...


class TorchRuntime:
    """The network in PyTorch, set to evaluation mode and moved to `device`.

    `names` holds part and joint of each of the parts' heatmaps.
    """

    def __init__(self, network: PoseNetwork, device: torch.device | str = "cpu") -> None:
        self.network = network.eval().to(device)
        self.device = torch.device(device)
        parts = network.parts.parts.items()
        self.names = [f"{part}: {joint}" for part, joints in parts for joint in joints]

    @torch.inference_mode()
    def __call__(self, images: UInt8[np.ndarray, "B h w 3"]) -> Float[Tensor, "B K h/4 w/4"]:
        return self.network.heatmaps(torch.as_tensor(images).to(self.device))

    @torch.inference_mode()
    def of_parts(
        self, images: UInt8[np.ndarray, "B h w 3"], vectors: bool = False
    ) -> Float[Tensor, "B J h/4 w/4"] | Float[Tensor, "B J d h/4 w/4"]:
        """The heatmaps of all parts' joints, part after part, J = sum(J_p) >= K; or the raw vectors."""
        stage: Stage = "vectors" if vectors else "heatmaps"
        return self.network(torch.as_tensor(images).to(self.device), stage)


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
        raise PnfsError(
            f"device {device!r} cannot be used here ({reason}); take auto, cpu or cuda"
        ) from error
    return chosen

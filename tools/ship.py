"""Makes the model that comes with the package: weights in half precision, no training state.

python tools/ship.py "What it is, was trained on, and scores." CHECKPOINT ...

Of several checkpoints of one network the mean of their weights is taken (a uniform soup, Wortsman et al. 2022).
"""

import sys
from pathlib import Path
from typing import Any

import torch

from pnfs.commands.building import trained_network
from pnfs.files import SHIPPED
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import describe_architecture, to_json
from pnfs.training.checkpoints import ARCHITECTURE_KEY, CARD_KEY, CONFIG_KEY, without_downloads

KEPT = ("model", "dataset", "codec", "input_size", "parts", "skeleton", "optimizer", "schedule", "loss")
"""What commands read of a run's configuration."""


def without_places(node: Any) -> Any:
    """A configuration without the paths of the machine that it was trained on."""
    if isinstance(node, dict):
        return {key: without_places(value) for key, value in node.items()}
    if isinstance(node, list):
        return [without_places(value) for value in node]
    return "none" if isinstance(node, str) and "/" in node else node


def mean_weights(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of each entry of several state dicts; counts of batches are the first one's."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).float()
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }


def main(card: str, *checkpoints: str) -> None:
    contents = [torch.load(path, map_location="cpu", weights_only=True) for path in checkpoints]
    settings = {key: without_places(contents[0][CONFIG_KEY][key]) for key in KEPT}
    state = mean_weights([content["state_dict"] for content in contents])
    network = trained_network(without_downloads(settings), {"state_dict": state}, Path(checkpoints[0]))
    assert isinstance(network, PoseFabricNetwork)
    content = {
        # Kernels take nearly all the room; batch statistics and the few logits keep their digits.
        "state_dict": {name: value.half() if value.ndim == 4 else value for name, value in state.items()},
        "epoch": contents[0]["epoch"],
        CONFIG_KEY: settings,
        ARCHITECTURE_KEY: to_json(describe_architecture(network)),
        CARD_KEY: card,
    }
    SHIPPED.parent.mkdir(exist_ok=True)
    torch.save(content, SHIPPED)
    print(f"{SHIPPED}: {SHIPPED.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Makes the model that comes with the package from a checkpoint: weights in half precision, no training state.

python tools/ship.py runs/lspet_best/<hash>/checkpoints/last.ckpt "What it is, was trained on, and scores."
"""

import sys
from typing import Any

import torch

from pnfs.files import SHIPPED
from pnfs.training.checkpoints import ARCHITECTURE_KEY, CARD_KEY, CONFIG_KEY

KEPT = ("model", "dataset", "codec", "input_size", "parts", "skeleton", "optimizer", "schedule", "loss")
"""What commands read of a run's configuration."""


def without_places(node: Any) -> Any:
    """A configuration without the paths of the machine that it was trained on."""
    if isinstance(node, dict):
        return {key: without_places(value) for key, value in node.items()}
    if isinstance(node, list):
        return [without_places(value) for value in node]
    return "none" if isinstance(node, str) and "/" in node else node


def main(checkpoint: str, card: str) -> None:
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    # Kernels take nearly all the room; batch statistics and the few logits keep their digits.
    weights = {name: value.half() if value.ndim == 4 else value for name, value in content["state_dict"].items()}
    settings = {key: without_places(content[CONFIG_KEY][key]) for key in KEPT}
    SHIPPED.parent.mkdir(exist_ok=True)
    torch.save(
        {
            "state_dict": weights,
            "epoch": content["epoch"],
            CONFIG_KEY: settings,
            ARCHITECTURE_KEY: content[ARCHITECTURE_KEY],
            CARD_KEY: card,
        },
        SHIPPED,
    )
    print(f"{SHIPPED}: {SHIPPED.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])

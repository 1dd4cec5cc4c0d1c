"""Any of timm's networks that has maps at 1/4, 1/8, 1/16 and 1/32 as a feature pyramid."""

from collections.abc import Iterable

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.models.backbones.pyramid import Backbone, read_file
from pnfs.models.meta import meta_copy
from pnfs.models.wiring import SCALES

_PROBE = 256
"""Side of the image on which the maps' shapes are looked up."""


class TimmBackbone(Backbone):
    """The last map of each scale of a timm model.

    Args:
        name: As in `timm.list_models()`, such as "efficientnet_b0".
        weights: "imagenet" (timm's pretrained weights, downloaded by timm), "none", or the path of a state
            dict of the whole model in timm's naming, classifier included.

    Raises:
        ValueError: timm has no such model, it has no such pyramid, or the weights cannot be had or do
            not fit.
    """

    def __init__(self, name: str, weights: str = "imagenet") -> None:
        super().__init__()
        if not timm.is_model(name):
            similar = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:8])
            raise ValueError(
                f"backbone.name={name}: timm has no such model"
                + (f"; similar ones are {similar}" if similar else "; timm.list_models() lists all")
            )
        self.network = _create(name, weights)
        shapes = _map_shapes(self.network, name)
        self.levels = _levels(shapes, name)
        self.channels = tuple(shapes[level][0] for level in self.levels)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> list[Float[Tensor, "B C_s h_s w_s"]]:
        maps = self.network(images)
        return [maps[level] for level in self.levels]


def _create(name: str, weights: str) -> nn.Module:
    if weights == "none":
        try:
            return timm.create_model(name, features_only=True)
        except (RuntimeError, TypeError, NotImplementedError, AttributeError, ValueError) as error:
            raise ValueError(
                f"backbone.name={name}: timm gives no feature maps of this model ({error})"
            ) from error
    if weights == "imagenet":
        try:
            return timm.create_model(name, features_only=True, pretrained=True)
        except Exception as error:
            # Downloads fail in as many ways as there are libraries that download.
            raise ValueError(
                f"timm's pretrained weights of {name} could not be had ({error}); pass a state dict "
                "as backbone.weights=/path/to/weights.pth, or train from scratch with "
                "backbone.weights=none"
            ) from error
    return _with_state(name, _checked_state(name, weights), features_only=True)


def _checked_state(name: str, weights: str) -> dict[str, Tensor]:
    """The file's state dict, once the whole model has taken it strictly.

    Of a model of feature maps timm would leave entries that it misses as they are, without a word.
    """
    state = dict(read_file(weights))
    try:
        return _with_state(name, state).state_dict()
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"backbone.weights: weights {weights} do not fit {name}: {error}"
        ) from error


def _with_state(name: str, state: dict[str, Tensor], features_only: bool = False) -> nn.Module:
    overlay = {"state_dict": state}
    if features_only:
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True
        )
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)


def _map_shapes(network: nn.Module, name: str) -> list[tuple[int, ...]]:
    """(C, h, w) of the maps of an image of `_PROBE` pixels, looked up without computing them."""
    image = torch.empty(1, 3, _PROBE, _PROBE, device="meta")
    try:
        with torch.no_grad():
            return [tuple(x.shape[1:]) for x in meta_copy(network)(image)]
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"backbone.name={name} does not take images of {_PROBE}x{_PROBE} pixels ({error}); choose "
            "a model that takes any size"
        ) from error


def _levels(shapes: list[tuple[int, ...]], name: str) -> list[int]:
    """Indices of the last maps at 1/4, 1/8, 1/16 and 1/32.

    Raises:
        ValueError: The model lacks one of them.
    """
    sides = [(_PROBE // scale, _PROBE // scale) for scale in SCALES]
    found = [shape[1:] for shape in shapes]
    if any(side not in found for side in sides):
        raise ValueError(
            f"backbone.name={name} has maps of shape {_listed(shapes)} (channels, height, width) for an "
            f"image of {_PROBE}x{_PROBE}; a backbone needs maps at 1/4, 1/8, 1/16 and 1/32"
        )
    return [max(i for i, size in enumerate(found) if size == side) for side in sides]


def _listed(shapes: Iterable[tuple[int, ...]]) -> str:
    return ", ".join(str(shape) for shape in shapes)

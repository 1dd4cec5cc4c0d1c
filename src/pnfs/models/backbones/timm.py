"""Any of timm's networks that has maps at 1/4, 1/8, 1/16 and 1/32 as a feature pyramid."""

from typing import Any

import timm
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.errors import PnfsError
from pnfs.models.backbones.pyramid import Backbone, read_file
from pnfs.models.wiring import SCALES


class TimmBackbone(Backbone):
    """The last map of each scale of a timm model.

    Args:
        name: As in `timm.list_models()`, such as "efficientnet_b0".
        weights: "imagenet" (timm's pretrained weights, downloaded by timm), "none", or the path of a state
            dict of the whole model in timm's naming, classifier included.

    Raises:
        PnfsError: timm has no such model, it has no such pyramid, or the weights cannot be had or do
            not fit.
    """

    def __init__(self, name: str, weights: str = "imagenet") -> None:
        super().__init__()
        if not timm.is_model(name):
            similar = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:8])
            hint = f"similar ones are {similar}" if similar else "timm.list_models() lists all"
            raise PnfsError(f"backbone.name={name}: timm has no such model; {hint}")
        try:
            whole = timm.create_model(name, features_only=True)
            info: Any = whole.feature_info
            scales = info.reduction()
        except (RuntimeError, TypeError, NotImplementedError, AttributeError, ValueError) as error:
            raise PnfsError(
                f"backbone.name={name}: timm gives no feature maps of this model ({error})"
            ) from error
        if not set(SCALES) <= set(scales):
            found = ", ".join(f"1/{scale}" for scale in scales)
            raise PnfsError(
                f"backbone.name={name} has maps at {found}; a backbone needs maps at 1/4, 1/8, 1/16 and 1/32"
            )
        # The last of each scale.
        self.levels = [len(scales) - 1 - scales[::-1].index(scale) for scale in SCALES]
        self.channels = tuple(info.channels()[level] for level in self.levels)
        self.network = whole if weights == "none" else _pretrained(name, weights)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> list[Float[Tensor, "B C_s h_s w_s"]]:
        maps = self.network(images)
        return [maps[level] for level in self.levels]


def _pretrained(name: str, weights: str) -> nn.Module:
    if weights == "imagenet":
        try:
            return timm.create_model(name, features_only=True, pretrained=True)
        except Exception as error:
            # Downloads fail in as many ways as there are libraries that download.
            raise PnfsError(
                f"timm's pretrained weights of {name} could not be had ({error}); pass a state dict "
                "as backbone.weights=/path/to/weights.pth, or train from scratch with "
                "backbone.weights=none"
            ) from error
    overlay = {"state_dict": dict(read_file(weights))}
    try:
        # For a model of feature maps timm would leave entries that it misses as they are, without a word.
        state = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, ValueError) as error:
        raise PnfsError(
            f"backbone.weights: weights {weights} do not fit {name}: {error}"
        ) from error
    overlay = {"state_dict": state.state_dict()}
    return timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True
    )

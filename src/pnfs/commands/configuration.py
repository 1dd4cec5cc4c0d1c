"""Where the configuration lies, and how it becomes plain data and objects."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

import pnfs

if TYPE_CHECKING:
    # For the annotations alone: a command's --help is not to wait for torch.
    from pnfs.data.datasets.base import PoseDataset
    from pnfs.models import PoseNetwork


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why and what to do."""


def configuration_folder() -> Path:
    """`conf/`: inside an installed package, or at the top of the source tree."""
    package = Path(pnfs.__file__).parent
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UsageError(f"no configuration beside {package}: reinstall pnfs")


def choose_parts(config: DictConfig, skeleton: str) -> None:
    """Fills in the model's skeleton and, for a model of parts, the grouping of its joints.

    A baseline knows no parts; the group `parts` then says nothing, and must not make another run of it.

    Raises:
        UsageError: The part mode says nothing about this skeleton.
    """
    OmegaConf.set_struct(config, False)
    config.model.skeleton = skeleton
    if "parts" not in config.model:
        config.parts = None
        return
    if skeleton not in config.parts:
        raise UsageError(
            f"the chosen part mode groups the joints of {', '.join(config.parts)}, not those of "
            f"{skeleton}; add `{skeleton}: {{part: [joint, ...], ...}}` to it"
        )
    config.model.parts = config.parts[skeleton]


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as a resolved plain dictionary, as checkpoints and records keep it."""
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def build_source(
    config: Mapping[str, Any], input_size: Sequence[int] | None = None
) -> "PoseDataset":
    """The dataset a configuration names.

    Args:
        config: The group `dataset`.
        input_size: (height, width) of the network's crops, for datasets whose evaluation depends
            on it (COCO) and whose configuration does not say.
    """
    if input_size is not None and config.get("input_size") is None:
        offered = inspect.signature(get_class(config["_target_"])).parameters
        if "input_size" in offered:
            config = {**config, "input_size": list(input_size)}
    return instantiate(config, _convert_="all")


def build_network(config: Mapping[str, Any]) -> "PoseNetwork":
    """The network a configuration describes."""
    return instantiate(config, _convert_="all")

"""Where the configuration lies, and how it becomes plain data and objects."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError

import pnfs
from pnfs.errors import PnfsError

if TYPE_CHECKING:
    # For the annotations alone: a command's --help is not to wait for torch.
    from pnfs.data.datasets.base import PoseDataset
    from pnfs.models import PoseNetwork


class UsageError(PnfsError):
    """What the user asked for cannot be done; the message says why and what to do."""


def configuration_folder() -> Path:
    """`conf/`: inside an installed package, or at the top of the source tree."""
    package = Path(pnfs.__file__).parent
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UsageError(f"no configuration beside {package}: reinstall pnfs")


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as a resolved plain dictionary, as checkpoints and records keep it.

    Raises:
        PnfsError: The part mode says nothing about the dataset's skeleton; or an interpolation cannot be resolved,
            as when a checkpoint that it reads is not there.
    """
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except InterpolationResolutionError as error:
        if isinstance(error, InterpolationKeyError):
            raise _without_key(config, error) from None
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PnfsError):
            cause = cause.__cause__ or cause.__context__  # OmegaConf hides its causes.
        raise cause or error from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _without_key(config: DictConfig, error: InterpolationKeyError) -> Exception:
    """What an interpolation without an aim means to a user, where that is known."""
    skeleton = config.get("skeleton")
    if isinstance(skeleton, DictConfig):
        skeleton = skeleton["name"]
    if f"'parts.{skeleton}'" not in str(error):
        return error
    return UsageError(
        f"the chosen part mode groups the joints of {', '.join(config.parts)}, not those of "
        f"{skeleton}; add `{skeleton}: {{part: [joint, ...], ...}}` to it"
    )


def build_source(
    config: Mapping[str, Any], input_size: Sequence[int] | None = None
) -> "PoseDataset":
    """The dataset a configuration names.

    Args:
        config: The group `dataset`.
        input_size: (height, width) of the network's crops, for datasets whose evaluation depends
            on it (COCO) and whose configuration does not say.

    Raises:
        UsageError: The dataset's joints are not those of the skeleton that it names.
    """
    offered = inspect.signature(get_class(config["_target_"])).parameters
    if input_size is not None and config.get("input_size") is None and "input_size" in offered:
        config = {**config, "input_size": list(input_size)}
    if "skeleton" in offered or "skeleton" not in config:
        return instantiate(config, _convert_="all")
    # Classes that know one skeleton only are not told its name.
    source = instantiate({k: v for k, v in config.items() if k != "skeleton"}, _convert_="all")
    if source.skeleton.name != config["skeleton"]:
        raise UsageError(
            f"dataset.skeleton={config['skeleton']}: the joints of {config['_target_']} are those of "
            f"{source.skeleton.name}"
        )
    return source


def build_network(config: Mapping[str, Any]) -> "PoseNetwork":
    """The network a configuration describes."""
    return instantiate(config, _convert_="all")

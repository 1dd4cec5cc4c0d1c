"""`pnfs import`: a run folder from a public checkpoint."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from hydra.utils import get_class
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pnfs.body import Skeleton
from pnfs.codec.decode import DecodeMethod
from pnfs.commands.configuration import UsageError, build_network, plain
from pnfs.importing.experiment import Experiment, read_experiment
from pnfs.importing.networks import Imported, import_posenfs, import_public
from pnfs.importing.posenfs import is_posenfs
from pnfs.importing.public import describe_public
from pnfs.models import PoseFabricNetwork, PoseNetwork
from pnfs.models.architecture import describe_architecture, to_json
from pnfs.models.backbones.pyramid import read_file
from pnfs.models.cost import measure_cost
from pnfs.models.network import ChannelOrder
from pnfs.runs.record import RESULT
from pnfs.runs.state import STATE
from pnfs.training.checkpoints import ARCHITECTURE_KEY, CONFIG_KEY

# Evaluation builds the training module, which wants them; nothing is trained.
_UNUSED = {
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True},
    "schedule": {"_target_": "pnfs.training.schedules.StepSchedule"},
}

console = Console()


def run(config: DictConfig) -> None:
    settings = plain(config)
    _check_settings(settings)
    file = Path(settings["checkpoint"]).expanduser()
    if not file.is_file():
        raise UsageError(f"checkpoint: {file} is not a file")
    imported, experiment = import_checkpoint(settings, file)
    trained = _configuration(settings, imported, experiment, file)
    folder = _folder(settings, file, trained)
    saved = _save(folder, imported.network, trained)
    console.print(_table(imported, trained, file))
    console.print(f"checkpoint: {saved}", soft_wrap=True)


def import_checkpoint(settings: Mapping[str, Any], file: Path) -> tuple[Imported, Experiment]:
    """The network of a public checkpoint, and what its YAML says.

    Raises:
        UsageError: The file is none that can be imported, or something is missing or contradictory; names file
            and key.
    """
    state = _checked_state(file)
    try:
        public = None if is_posenfs(state) else describe_public(state)
        if public is None and not is_posenfs(state):
            raise ValueError(
                "has names of neither PoseNFS, HRNet nor SimpleBaseline pose networks; its first entry is "
                f"{next(iter(state))!r}"
            )
        experiment = Experiment()
        if settings["config"] is not None:
            experiment = read_experiment(settings["config"], posenfs=public is None)
        skeleton = _chosen_skeleton(settings["dataset"])
        if public is None:
            found = import_posenfs(settings, state, skeleton, experiment, build_network)
        else:
            found = import_public(settings, state, public, skeleton, experiment, build_network)
        return found, experiment
    except ValueError as error:
        raise UsageError(f"checkpoint: {file}: {error}") from error


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses what no other command could use later."""
    codec = settings["codec"]
    choices = {"decode_method": get_args(DecodeMethod), "flip_shift": (None, 0, 1)}
    for key, allowed in choices.items():
        if codec[key] not in allowed:
            raise UsageError(f"codec.{key} must be one of {allowed}, not {codec[key]!r}")
    for key, value in (("padding", settings["padding"]), ("codec.sigma", codec["sigma"])):
        if value is not None and not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise UsageError(f"{key} must be a number above 0, not {value!r}")
    if settings["channel_order"] not in (None, *get_args(ChannelOrder)):
        raise UsageError(f"channel_order must be rgb or bgr, not {settings['channel_order']!r}")


def _checked_state(file: Path) -> dict[str, Tensor]:
    state = dict(read_file(str(file), "checkpoint"))
    if any(name.startswith("network.") for name in state):
        raise UsageError(
            f"checkpoint: {file} has the names of this package's own checkpoints, which need no import"
        )
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UsageError(f"checkpoint: {file}: {name} holds numbers that are not finite")
    return state


def _chosen_skeleton(dataset: Mapping[str, Any]) -> str | None:
    """Of the dataset on the command line; None if there is none."""
    if "_target_" not in dataset:
        return None
    if "skeleton" in dataset:
        return str(dataset["skeleton"])
    skeleton = getattr(get_class(dataset["_target_"]), "skeleton", None)
    if not isinstance(skeleton, Skeleton):
        raise UsageError(f"dataset: {dataset['_target_']} does not say whose joints it has")
    return skeleton.name


def _configuration(
    settings: Mapping[str, Any], imported: Imported, experiment: Experiment, file: Path
) -> dict[str, Any]:
    """The configuration that goes into the checkpoint, as a trained run's."""
    codec = dict(settings["codec"])
    if codec["sigma"] is None:
        codec["sigma"] = experiment.sigma or 2.0
    if codec["flip_shift"] is None:
        stated = experiment.flip_shift
        codec["flip_shift"] = imported.flip_shift if stated is None else stated
    return {
        "name": "imported",
        "imported": {"from": imported.kind, "sha256": _sha256(file)},
        "model": imported.model,
        "dataset": _dataset(settings, imported.skeleton.name, experiment),
        "input_size": _input_size(settings["input_size"], experiment),
        "codec": codec,
        "loss": settings["loss"],
        **_UNUSED,
    }


def _dataset(settings: Mapping[str, Any], skeleton: str, experiment: Experiment) -> dict[str, Any]:
    dataset = dict(settings["dataset"])
    if "_target_" not in dataset:
        given = {key: value for key, value in dataset.items() if value is not None}
        dataset = settings["known"][skeleton] | given
    padding = settings["padding"] or experiment.padding
    # Drawn people have no boxes to pad.
    return dataset | {"padding": padding} if padding and "padding" in dataset else dataset


def _input_size(asked: Any, experiment: Experiment) -> list[int]:
    size = asked or experiment.input_size
    if size is None:
        raise UsageError(
            "input_size is needed, (height, width) of the crops that the checkpoint was trained on, such as "
            "input_size=[256,192]; or its YAML as config=FILE"
        )
    match list(size):
        case [int(height), int(width)] if min(height, width) > 0 and not (
            height % 32 or width % 32
        ):
            return [height, width]
        case other:
            raise UsageError(f"input_size is (height, width), multiples of 32, not {other}")


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _folder(settings: Mapping[str, Any], file: Path, trained: Mapping[str, Any]) -> Path:
    if settings["out"] is not None:
        folder = Path(settings["out"]).expanduser()
        if any((folder / name).exists() for name in (RESULT, STATE)):
            raise UsageError(f"out: {folder} is a trained run, which is not overwritten")
        return folder
    digest = hashlib.sha256(json.dumps(trained, sort_keys=True).encode()).hexdigest()[:8]
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in file.name.split(".")[0])
    return Path(settings["run_root"]) / "imported" / f"{name or 'checkpoint'}-{digest}"


def _save(folder: Path, network: PoseNetwork, trained: Mapping[str, Any]) -> Path:
    """Writes best.ckpt, with what a trained run's has but for the training's own state."""
    content: dict[str, Any] = {
        "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        CONFIG_KEY: dict(trained),
        "epoch": 0,
    }
    if isinstance(network, PoseFabricNetwork):
        content[ARCHITECTURE_KEY] = to_json(describe_architecture(network))
    path = folder / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    temporary.replace(path)
    return path


def _table(imported: Imported, trained: Mapping[str, Any], file: Path) -> Table:
    """What was read and assumed, so that a user sees what is wrong before a score does."""
    model, codec = trained["model"], trained["codec"]
    height, width = trained["input_size"]
    cost = measure_cost(imported.network, (height, width))
    backbone = model["backbone"] | model["backbone"].get("fabrics", {})
    backbone = {k: v for k, v in backbone.items() if k in ("depth", "width", "channels")}
    size = "".join(f" {key} {value}" for key, value in backbone.items())
    rows = {
        "joints": model["skeleton"],
        "backbone": model["backbone"]["_target_"].rsplit(".", 1)[-1] + size,
        "images": f"{height}x{width}, {model['channel_order'].upper()}",
        "flip test": f"mirrored maps move {codec['flip_shift']} to the right",
        "parameters": f"{cost.parameters:,}",
    }
    if "parts" in model:
        fabrics = model["fabrics"]
        per = "cell" if fabrics["alpha_per_cell"] else "fabric"
        rows["parts"] = ", ".join(model["parts"])
        rows["fabric"] = (
            f"L={fabrics['layers']}, n={fabrics['last_layers']}, H={fabrics['nodes']}, "
            f"C={fabrics['channels']}, d={model['vector_dim']}, one alpha a {per}"
        )
        rows["operations"] = ", ".join(fabrics["operations"])
    if imported.unread:
        count = len(imported.unread)
        rows["left out"] = f"{count} entries that reach no output, such as {imported.unread[0]}"
    table = Table(title=f"{file.name}: {imported.kind}", title_justify="left", show_header=False)
    for row in rows.items():
        table.add_row(*row)
    return table

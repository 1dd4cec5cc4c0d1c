"""`pnfs import`: a run folder from a public checkpoint."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from pnfs.commands.building import build_network, save_network
from pnfs.commands.configuration import UsageError
from pnfs.errors import PnfsError
from pnfs.importing.experiment import Experiment, read_experiment
from pnfs.importing.networks import Imported, import_posenfs, import_public
from pnfs.importing.posenfs import is_posenfs
from pnfs.importing.public import describe_public
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import describe_architecture
from pnfs.models.backbones import read_file
from pnfs.models.cost import measure_cost
from pnfs.runs.record import RESULT
from pnfs.runs.state import STATE

# Evaluation builds the training module, which wants them; nothing is trained.
_UNUSED = {
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True},
    "schedule": {"_target_": "pnfs.training.schedules.StepSchedule"},
}

console = Console()


def run(settings: dict[str, Any]) -> None:
    """Saves the checkpoint as a run's, and prints what was read and assumed."""
    file = Path(settings["checkpoint"]).expanduser()
    if not file.is_file():
        raise UsageError(f"checkpoint: {file} is not a file")
    state = dict(read_file(str(file), "checkpoint"))
    try:
        imported, experiment = _import(settings, state)
    except ValueError as error:
        raise UsageError(f"checkpoint: {file}: {error}") from error
    trained = _configuration(settings, imported, experiment, file)
    network = imported.network
    fabrics = isinstance(network, PoseFabricNetwork)
    architecture = describe_architecture(network) if fabrics else None
    saved = save_network(_folder(settings, file, trained), network, trained, architecture)
    console.print(_table(imported, trained, file))
    console.print(f"checkpoint: {saved}", soft_wrap=True)


def _import(settings: Mapping[str, Any], state: dict[str, Tensor]) -> tuple[Imported, Experiment]:
    """The network of a public checkpoint, and what its YAML says."""
    if any(name.startswith("network.") for name in state):
        raise PnfsError("has the names of this package's own checkpoints, which need no import")
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise PnfsError(f"{name} holds numbers that are not finite")
    ours = is_posenfs(state)
    public = None if ours else describe_public(state)
    if public is None and not ours:
        raise PnfsError(
            "has names of neither PoseNFS, HRNet nor SimpleBaseline pose networks; its first entry is "
            f"{next(iter(state))!r}"
        )
    path, skeleton = settings["config"], settings["dataset"].get("skeleton")
    experiment = Experiment() if path is None else read_experiment(path, posenfs=ours)
    rest = (skeleton, experiment, build_network)
    if public is None:
        return import_posenfs(settings, state, *rest), experiment
    return import_public(settings, state, public, *rest), experiment


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
    size = settings["input_size"] or experiment.input_size
    if size is None:
        raise UsageError(
            "input_size is needed, (height, width) of the crops that the checkpoint was trained on, such as "
            "input_size=[256,192]; or its YAML as config=FILE"
        )
    if any(side <= 0 or side % 32 for side in size):
        raise UsageError(f"input_size is (height, width), multiples of 32, not {list(size)}")
    dataset = dict(settings["dataset"])
    if "_target_" not in dataset:
        given = {key: value for key, value in dataset.items() if value is not None}
        dataset = settings["known"][imported.skeleton.name] | given
    padding = settings["padding"] or experiment.padding
    if padding and "padding" in dataset:  # Drawn people have no boxes to pad.
        dataset["padding"] = padding
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {
        "name": "imported",
        "imported": {"from": imported.kind, "sha256": digest},
        "model": imported.model,
        "dataset": dataset,
        "input_size": list(size),
        "codec": codec,
        "loss": settings["loss"],
        **_UNUSED,
    }


def _folder(settings: Mapping[str, Any], file: Path, trained: Mapping[str, Any]) -> Path:
    if settings["out"] is not None:
        folder = Path(settings["out"]).expanduser()
        if any((folder / name).exists() for name in (RESULT, STATE)):
            raise UsageError(f"out: {folder} is a trained run, which is not overwritten")
        return folder
    digest = hashlib.sha256(json.dumps(trained, sort_keys=True).encode()).hexdigest()[:8]
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in file.name.split(".")[0])
    return Path(settings["run_root"]) / "imported" / f"{name or 'checkpoint'}-{digest}"


def _table(imported: Imported, trained: Mapping[str, Any], file: Path) -> Table:
    """What was read and assumed, so that a user sees what is wrong before a score does."""
    model, codec = trained["model"], trained["codec"]
    height, width = trained["input_size"]
    backbone = model["backbone"] | model["backbone"].get("fabrics", {})
    size = [f" {k} {backbone[k]}" for k in ("depth", "width", "channels") if k in backbone]
    rows = {
        "joints": model["skeleton"],
        "backbone": model["backbone"]["_target_"].rsplit(".", 1)[-1] + "".join(size),
        "images": f"{height}x{width}, {model['channel_order'].upper()}",
        "flip test": f"mirrored maps move {codec['flip_shift']} to the right",
        "parameters": f"{measure_cost(imported.network, (height, width)).parameters:,}",
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

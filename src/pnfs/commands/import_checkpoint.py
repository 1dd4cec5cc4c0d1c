"""`pnfs import`: a run folder from a public checkpoint."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from pnfs.commands.building import build_network, save_network
from pnfs.commands.configuration import UsageError, console
from pnfs.commands.scoring import out_folder, result_folder
from pnfs.importing.networks import Imported, import_state
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import describe_architecture
from pnfs.models.backbones import read_file
from pnfs.models.cost import measure_cost

# Evaluation builds the training module, which wants them; nothing is trained.
_UNUSED = {
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True},
    "schedule": {"_target_": "pnfs.training.schedules.StepSchedule"},
}


def run(settings: dict[str, Any]) -> None:
    """Saves the checkpoint as a run's, and prints what was read and assumed."""
    file = Path(settings["checkpoint"]).expanduser()
    if not file.is_file():
        raise UsageError(f"checkpoint: {file} is not a file")
    state = dict(read_file(str(file), "checkpoint"))
    try:
        imported = import_state(settings, state, build_network)
    except ValueError as error:
        raise UsageError(f"checkpoint: {file}: {error}") from error
    trained, network = _configuration(settings, imported, file), imported.network
    architecture = describe_architecture(network) if isinstance(network, PoseFabricNetwork) else None
    own = result_folder(None, Path(settings["run_root"]) / "imported", file.name.split(".")[0], trained)
    folder = out_folder(settings["out"], None) if settings["out"] else own
    saved = save_network(folder, network, trained, architecture)
    console.print(_table(imported, trained, file))
    console.print(f"checkpoint: {saved}")


def _configuration(settings: Mapping[str, Any], imported: Imported, file: Path) -> dict[str, Any]:
    """The configuration that goes into the checkpoint, as a trained run's."""
    dataset = dict(settings["dataset"])
    if "_target_" not in dataset:
        given = {key: value for key, value in dataset.items() if value is not None}
        dataset = settings["known"][imported.model["skeleton"]] | given
    codec = dict(settings["codec"])
    if codec["flip_shift"] is None:
        codec["flip_shift"] = imported.flip_shift
    return {
        "name": "imported",
        "imported": {"from": imported.kind, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
        "model": imported.model,
        "dataset": dataset,
        "input_size": list(settings["input_size"]),
        "codec": codec,
        "loss": settings["loss"],
        **_UNUSED,
    }


def _table(imported: Imported, trained: Mapping[str, Any], file: Path) -> Table:
    """What was read and assumed, so that a user sees what is wrong before a score does."""
    model, shift = trained["model"], trained["codec"]["flip_shift"]
    height, width = trained["input_size"]
    backbone = model["backbone"] | model["backbone"].get("fabrics", {})
    size = [f" {k} {backbone[k]}" for k in ("depth", "width", "channels") if k in backbone]
    rows = {
        "joints": f"{model['skeleton']}, vectors of {model['vector_dim']}",
        "backbone": model["backbone"]["_target_"].rsplit(".", 1)[-1] + "".join(size),
        "images": f"{height}x{width}, {model['channel_order'].upper()}, mirrored maps move {shift} to the right",
        "parameters": f"{measure_cost(imported.network, (height, width)).parameters:,}",
    }
    if "parts" in model:
        keys = ("layers", "last_layers", "nodes", "channels", "alpha_per_cell")
        rows["parts"] = ", ".join(model["parts"])
        rows["fabric"] = ", ".join(f"{key} {model['fabrics'][key]}" for key in keys)
        rows["operations"] = ", ".join(model["fabrics"]["operations"])
    if imported.unread:
        rows["left out"] = f"{len(imported.unread)} entries that reach no output, such as {imported.unread[0]}"
    table = Table(title=f"{file.name}: {imported.kind}", title_justify="left", show_header=False)
    for row in rows.items():
        table.add_row(*row)
    return table

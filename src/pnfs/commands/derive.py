"""`pnfs derive`: a smaller network from a continuous architecture."""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pnfs.commands.building import build_module, data_of_run
from pnfs.commands.configuration import (
    UsageError,
    build_network,
    build_source,
    plain,
)
from pnfs.commands.evaluate import chosen_dataset
from pnfs.commands.scoring import require_whole_split, score
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import (
    Architecture,
    describe_architecture,
    load_architecture,
    to_json,
)
from pnfs.models.cost import Cost, measure_cost
from pnfs.models.derive import discretise, kept_settings, prune, transfer_weights
from pnfs.runs.record import provenance, write_result
from pnfs.training.checkpoints import (
    ARCHITECTURE_KEY,
    BUILT,
    CONFIG_KEY,
    find_checkpoint,
    read_checkpoint,
    without_downloads,
)
from pnfs.training.module import load_network_state

console = Console()


def run(config: DictConfig) -> None:
    settings = plain(config)
    require_whole_split(settings["trainer"])
    path = find_checkpoint(settings["checkpoint"])
    builds = BUILT if settings["evaluate"] else ("model",)
    checkpoint = read_checkpoint(path, builds=builds, trust=settings["trust"])
    trained = without_downloads(checkpoint[CONFIG_KEY])
    if trained["model"].get("fabrics", {}).get("kept") is not None:
        raise UsageError(f"{path} is a derived network already; derive from the one it comes from")
    source = _fabric_network(trained["model"], path)
    load_network_state(source, checkpoint["state_dict"])
    architecture = derived_architecture(settings, describe_architecture(source))
    model = derived_model_settings(trained["model"], architecture)
    derived = _fabric_network(model, path)
    load_architecture(derived, architecture)
    transfer_weights(source, derived)
    folder = Path(settings["out"]) if settings["out"] else path.parent.parent / settings["method"]
    written = save_derived(folder, derived, trained | {"model": model}, architecture, checkpoint)
    size = (trained["input_size"][0], trained["input_size"][1])
    costs = {"source": measure_cost(source, size), "derived": measure_cost(derived, size)}
    scores: dict[str, dict[str, float]] = {}
    if settings["evaluate"]:
        dataset = chosen_dataset(settings["dataset"], trained["dataset"])
        for name, network in (("source", source), ("derived", derived)):
            scores[name] = _score(settings, trained | {"dataset": dataset}, network)
    console.print(f"source: {path}", soft_wrap=True)
    console.print(derivation_table(f"derived by {settings['method']}", costs, scores))
    record = {
        "checkpoint": str(path),
        "method": settings["method"],
        "thresholds": {k: settings[k] for k in ("alpha_threshold", "beta_threshold")},
        "cost": {name: {"parameters": c.parameters, "macs": c.macs} for name, c in costs.items()},
        "scores": scores,
        **provenance(),
    }
    write_result(folder, record)
    for what, file in written.items():
        console.print(f"{what}: {file}", soft_wrap=True)


def _fabric_network(model: Mapping[str, Any], path: Path) -> PoseFabricNetwork:
    network = build_network(model)
    if not isinstance(network, PoseFabricNetwork):
        raise UsageError(
            f"{path} is a {type(network).__name__}, a baseline without architecture: there is nothing "
            "to derive"
        )
    return network


def derived_architecture(settings: Mapping[str, Any], found: Architecture) -> Architecture:
    """The logits after the chosen way of deriving.

    Raises:
        UsageError: There is no such way.
    """
    method = settings["method"]
    if method == "exact":
        return found
    if method == "prune":
        return prune(found, settings["alpha_threshold"], settings["beta_threshold"])
    if method == "argmax":
        return discretise(found)
    raise UsageError(f"unknown method {method!r}; there are exact, prune, argmax")


def derived_model_settings(model: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """The model's configuration with what is left of its fabrics."""
    settings = copy.deepcopy(dict(model))
    kept = kept_settings(architecture)
    settings["fabrics"]["kept"] = _kept_as_data(kept["subnetworks"])
    if "backbone" in kept:
        settings["backbone"]["fabrics"]["kept"] = _kept_as_data(kept["backbone"])
    return settings


def _kept_as_data(kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        part: {
            name: {"_target_": "pnfs.models.wiring.KeptCell", **_lists(asdict(cell))}
            for name, cell in cells.items()
        }
        for part, cells in kept.items()
    }


def _lists(cell: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": list(cell["inputs"]), "edges": [list(edge) for edge in cell["edges"]]}


def save_derived(
    folder: Path,
    network: PoseFabricNetwork,
    settings: dict[str, Any],
    architecture: Architecture,
    checkpoint: Mapping[str, Any],
) -> dict[str, Path]:
    """A checkpoint that the other commands accept, and the architecture as JSON."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    files = {
        "checkpoint": folder / "checkpoints" / "best.ckpt",
        "architecture": folder / "architecture.json",
    }
    torch.save(
        {
            "state_dict": {f"network.{k}": v for k, v in network.state_dict().items()},
            CONFIG_KEY: settings,
            ARCHITECTURE_KEY: to_json(architecture),
            "epoch": checkpoint["epoch"],
        },
        files["checkpoint"],
    )
    files["architecture"].write_text(to_json(architecture))
    return files


def _score(
    settings: Mapping[str, Any], trained: Mapping[str, Any], network: PoseFabricNetwork
) -> dict[str, float]:
    source = build_source(trained["dataset"], trained["input_size"])
    module = build_module(dict(trained), source, network)
    module.flip_test = settings["flip_test"]
    data = data_of_run(
        trained, source, batch_size=settings["eval_batch_size"], workers=settings["workers"]
    )
    return score(module, data, settings["trainer"], settings["split"])


def derivation_table(
    title: str, costs: Mapping[str, Cost], scores: Mapping[str, Mapping[str, float]]
) -> Table:
    """What the derived network costs and scores beside its source."""
    table = Table(title=title)
    for column in ("", "source", "derived", "change"):
        table.add_column(column, justify="right" if column else "left")
    source, derived = costs["source"], costs["derived"]
    for name, before, after in (
        ("parameters", source.parameters, derived.parameters),
        ("MACs", source.macs, derived.macs),
    ):
        table.add_row(name, f"{before:,}", f"{after:,}", f"{100 * (after / before - 1):+.1f} %")
    if scores:
        name = next(iter(scores["source"]))
        before, after = scores["source"][name], scores["derived"][name]
        table.add_row(name, f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}")
    return table

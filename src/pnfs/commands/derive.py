"""`pnfs derive`: a smaller network from a continuous architecture."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pnfs.commands.building import (
    build_module,
    chosen_dataset,
    data_of_run,
    read_trained,
    save_network,
    source_for,
    trained_network,
)
from pnfs.commands.configuration import UsageError, build_network, plain
from pnfs.commands.scoring import require_whole_split, score_and_predict
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import Architecture, describe_architecture, load_architecture, to_json
from pnfs.models.cost import measure_cost
from pnfs.models.derive import discretise, kept_settings, prune, transfer_weights
from pnfs.runs.record import provenance, write_result
from pnfs.training.checkpoints import BUILT, results_folder

console = Console()


def run(config: DictConfig) -> None:
    """Saves the derived network, its architecture and a record; prints what it costs and scores."""
    settings = plain(config)
    require_whole_split(settings["trainer"])
    method = settings["method"]
    builds = BUILT if settings["evaluate"] else ("model",)
    path, trained, content = read_trained(settings, builds)
    source = trained_network(trained, content, path)
    if not isinstance(source, PoseFabricNetwork):
        raise UsageError(
            f"{path} is a {type(source).__name__}, a baseline without architecture: there is nothing "
            "to derive"
        )
    if trained["model"]["fabrics"].get("kept") is not None:
        raise UsageError(f"{path} is a derived network already; derive from the one it comes from")
    thresholds = {name: settings[name] for name in ("alpha_threshold", "beta_threshold")}
    architecture = describe_architecture(source)
    if method == "prune":
        architecture = prune(architecture, *thresholds.values())
    elif method == "argmax":
        architecture = discretise(architecture)
    model = _with_what_is_kept(trained["model"], architecture)
    derived = build_network(model)
    assert isinstance(derived, PoseFabricNetwork)
    load_architecture(derived, architecture)
    transfer_weights(source, derived)
    folder = Path(settings["out"] or results_folder(path, settings["run_root"]) / method)
    derived_settings = trained | {"model": model}
    saved = save_network(folder, derived, derived_settings, architecture, content["epoch"])
    (folder / "architecture.json").write_text(to_json(architecture), encoding="utf-8")
    networks = {"source": source, "derived": derived}
    height, width = trained["input_size"]
    costs = {name: measure_cost(network, (height, width)) for name, network in networks.items()}
    cost = {name: {"parameters": c.parameters, "macs": c.macs} for name, c in costs.items()}
    scores = _scores(settings, trained, networks, path) if settings["evaluate"] else {}
    record = {
        "kind": "derive",
        "checkpoint": str(path),
        "method": method,
        "thresholds": thresholds,
        "cost": cost,
        "scores": scores,
        **provenance(),
    }
    write_result(folder, record)
    console.print(f"source: {path}", soft_wrap=True)
    console.print(_table(f"derived by {method}", cost, scores))
    console.print(f"checkpoint: {saved}", soft_wrap=True)
    console.print(f"architecture: {folder / 'architecture.json'}", soft_wrap=True)


def _with_what_is_kept(model: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """The model's configuration with what is left of its fabrics."""
    settings = copy.deepcopy(dict(model))
    for place, parts in kept_settings(architecture).items():
        holder = settings if place == "subnetworks" else settings[place]
        holder["fabrics"]["kept"] = {
            part: {
                name: {"_target_": "pnfs.models.wiring.KeptCell"}
                | {"inputs": [*cell.inputs], "edges": [[*edge] for edge in cell.edges]}
                for name, cell in cells.items()
            }
            for part, cells in parts.items()
        }
    return settings


def _scores(
    settings: Mapping[str, Any],
    trained: dict[str, Any],
    networks: Mapping[str, PoseFabricNetwork],
    path: Path,
) -> dict[str, dict[str, float]]:
    """What each network scores on the chosen split."""
    dataset = chosen_dataset(settings["dataset"], trained["dataset"])
    source = source_for(dataset, trained["input_size"], trained["model"]["skeleton"], path)
    sizes = {"batch_size": settings["eval_batch_size"], "workers": settings["workers"]}
    data = data_of_run(trained, source, **sizes)
    found = {}
    for name, network in networks.items():
        module = build_module(trained, source, network)
        module.flip_test = settings["flip_test"]
        found[name], _ = score_and_predict(module, data, settings["trainer"], settings["split"])
    return found


def _table(
    title: str, cost: Mapping[str, Mapping[str, int]], scores: Mapping[str, Mapping[str, float]]
) -> Table:
    """What the derived network costs and scores beside its source."""
    table = Table("", title=title)
    for column in ("source", "derived", "change"):
        table.add_column(column, justify="right")
    for name, label in (("parameters", "parameters"), ("macs", "MACs")):
        before, after = cost["source"][name], cost["derived"][name]
        table.add_row(label, f"{before:,}", f"{after:,}", f"{100 * (after / before - 1):+.1f} %")
    for name in [*scores.get("source", {})][:1]:
        before, after = scores["source"][name], scores["derived"][name]
        table.add_row(name, f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}")
    return table

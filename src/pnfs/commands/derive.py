"""`pnfs show`, `cost`, `derive`, `export`: an architecture drawn, counted, made smaller, written for runtimes."""

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from pnfs.codec import Codec
from pnfs.commands.building import build_network, data_for, read_trained, save_network, trained_network
from pnfs.commands.configuration import UsageError, console
from pnfs.commands.scoring import out_folder
from pnfs.export.onnx_model import TOLERANCE, Calibration, export_onnx
from pnfs.export.runtimes import FilePrecision
from pnfs.inference.predictor import DEFAULT_PADDING
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import describe_architecture, load_architecture, to_json
from pnfs.models.cost import measure_cost
from pnfs.models.derive import discretise, kept_settings, prune, transfer_weights
from pnfs.runs.state import provenance, write_result
from pnfs.training.callbacks import TRAJECTORY, read_trajectory
from pnfs.training.checkpoints import read_architecture, results_place
from pnfs.viz.curves import plot_trajectory
from pnfs.viz.fabrics import draw_fabrics


def show(settings: dict[str, Any]) -> None:
    """Draws the fabrics, and the course of alpha and beta where it is known."""
    suffix, asked = settings["format"], Path(settings["checkpoint"]).expanduser()
    architecture = read_architecture(asked)
    # The run's folder of a checkpoint, JSON file, or the folder itself.
    parent = asked.parent.parent if asked.parent.name == "checkpoints" else asked.parent
    parent = Path(settings["run_root"]) / "shipped" if settings["checkpoint"] == "shipped" else parent
    run_folder = asked if asked.is_dir() else parent
    folder = Path(settings["out"] or run_folder).expanduser()
    for fabrics in architecture.fabrics:
        name = "architecture" + ("" if fabrics == "subnetworks" else f"_{fabrics}")
        draw_fabrics(architecture, folder / f"{name}.{suffix}", fabrics=fabrics)
        console.print(f"{fabrics}: {folder / name}.{suffix}")
    if (run_folder / TRAJECTORY).is_file():
        trajectory = read_trajectory(run_folder / TRAJECTORY)
        path, epochs = folder / f"trajectory.{suffix}", [epoch + 1 for epoch in trajectory]
        plot_trajectory(list(trajectory.values()), path, epochs=epochs)
        console.print(f"trajectory: {path}")


def cost(settings: dict[str, Any]) -> None:
    """Prints parameters and multiply-accumulates of a configuration, a row a part of the model."""
    network, (height, width) = build_network(settings["model"]), settings["input_size"]
    fabrics = isinstance(network, PoseFabricNetwork)
    what = f"{len(network.parts)} parts" if fabrics else type(network).__name__
    found = measure_cost(network, (height, width))
    rows = {n: (p.parameters, p.live_parameters, p.macs) for n, p in found.parts.items()}
    rows["total"] = (found.parameters, found.live_parameters, found.macs)
    rows["of which alpha, beta"] = (found.architecture_parameters, found.architecture_parameters, 0)
    table = pd.DataFrame(rows, index=["parameters", "live", "MACs"]).T.map("{:,}".format)
    console.print(
        f"{what}, {height}x{width}, batch 1\n{table.to_string()}\nlive: parameters that the output depends on"
    )


def derive(settings: dict[str, Any]) -> None:
    """Saves the derived network, its architecture and a record; prints what it costs."""
    method = settings["method"]
    path, trained, content = read_trained(settings, ("model",))
    source = trained_network(trained, content, path)
    if not isinstance(source, PoseFabricNetwork):
        raise UsageError(
            f"{path} is a {type(source).__name__}, a baseline without architecture: there is nothing to derive"
        )
    if trained["model"]["fabrics"].get("kept") is not None:
        raise UsageError(f"{path} is a derived network already; derive from the one it comes from")
    thresholds = {name: settings[name] for name in ("alpha_threshold", "beta_threshold")}
    others = method == "prune" and [*thresholds.values()] != [0.1, 0.1]  # Than the configuration's.
    name = "_".join(map(str, [method, *thresholds.values()])) if others else method
    folder = out_folder(settings["out"] or results_place(path, settings["run_root"], name), "derive")
    if (folder / "checkpoints").resolve() == path.parent.resolve():
        raise UsageError(f"out: {folder} holds the checkpoint to derive from; name another folder")
    architecture = describe_architecture(source)
    if method != "exact":
        architecture = prune(architecture, **thresholds) if method == "prune" else discretise(architecture)
    model = copy.deepcopy(trained["model"])
    for place, parts in kept_settings(architecture).items():
        holder = model if place == "subnetworks" else model[place]
        holder["fabrics"]["kept"] = {
            part: {
                name: {"_target_": "pnfs.models.wiring.KeptCell"}
                | {"inputs": [*cell.inputs], "edges": [[*edge] for edge in cell.edges]}
                for name, cell in cells.items()
            }
            for part, cells in parts.items()
        }
    derived = build_network(model)
    assert isinstance(derived, PoseFabricNetwork)
    load_architecture(derived, architecture)
    transfer_weights(source, derived)
    saved = save_network(folder, derived, trained | {"model": model}, architecture, content["epoch"])
    (folder / "architecture.json").write_text(to_json(architecture), encoding="utf-8")
    height, width = trained["input_size"]
    counts = [vars(measure_cost(network, (height, width))) for network in (source, derived)]
    console.print(f"source: {path}")
    for name in ("parameters", "live_parameters", "macs"):
        before, after = (each[name] for each in counts)
        console.print(f"{name}: {before:,}, derived {after:,} ({100 * (after / before - 1):+.1f} %)")
    costs = [{name: each[name] for name in ("parameters", "live_parameters", "macs")} for each in counts]
    if method == "prune" and costs[0] == costs[1]:
        limits = ", ".join(f"{name}={value}" for name, value in thresholds.items())
        console.print(f"nothing is weaker than {limits}: this is the whole network")
    about = {"checkpoint": str(path), "method": method, "thresholds": thresholds}
    cost = dict(zip(("source", "derived"), costs, strict=True))
    write_result(folder, {"kind": "derive", **about, "cost": cost, **provenance()})
    console.print(f"checkpoint: {saved}\narchitecture: {folder / 'architecture.json'}")


def export(settings: dict[str, Any]) -> None:
    """Writes the file, checks it against PyTorch, and says how far it is away."""
    # What OpenVINO computes in, the same key of other commands, is another choice.
    if settings["precision"] not in get_args(FilePrecision):
        choices = ", ".join(get_args(FilePrecision))
        raise UsageError(f"precision={settings['precision']}: must be one of {choices}")
    is_int8 = settings["precision"] == "int8"
    path, trained, content = read_trained(settings, ("model", "dataset") if is_int8 else ("model",))
    name = "model_int8" if is_int8 else "model"
    out = settings["out"] or results_place(path, settings["run_root"], name).with_suffix(".onnx")
    file = Path(out).expanduser()
    if file.suffix not in ("", ".onnx") or file.is_dir():
        raise UsageError(f"out={settings['out']}: name a file that ends in .onnx")
    height, width = settings["input_size"] or trained["input_size"]
    int8 = _calibration(settings, {**trained, "input_size": (height, width)}, path) if is_int8 else None
    console.print(f"exporting {path} (about {'some minutes' if is_int8 else 'half a minute'})")
    report = export_onnx(
        trained_network(trained, content, path).eval(),
        file.with_suffix(".onnx"),  # Other commands go by it.
        input_size=(height, width),
        codec=Codec(**trained.get("codec", {})),
        padding=trained["dataset"].get("padding", DEFAULT_PADDING),
        checkpoint=hashlib.sha256(path.read_bytes()).hexdigest(),
        int8=int8,
    )
    differences = ", ".join(f"{d:.1e} at batch {b}" for b, d in report.differences.items())
    before = "" if report.convolutions is None else ", before it was put into 8-bit integers"
    console.print(
        f"{report.path}: {height}x{width}, {report.metadata.precision}, "
        f"{report.path.stat().st_size / 1e6:.1f} MB\n"
        f"largest difference from PyTorch: {differences} (allowed: {TOLERANCE}){before}"
    )
    if int8 is not None and report.convolutions is not None:
        total, in_float = report.convolutions
        console.print(
            f"int8: {total - in_float} of {total} convolutions; on {len(int8.held_out)} other crops "
            f"{report.moved:.2%} of the joints moved by more than a pixel of the heatmaps (allowed: "
            f"{min(1.0, 2 * int8.max_moved):.2%})"
        )


def _calibration(settings: Mapping[str, Any], trained: Mapping[str, Any], path: Path) -> Calibration:
    """Plain training crops, spread over the split, in turns to calibrate on and to check on."""
    count = settings["int8"]["crops"]
    crops = data_for(settings, trained, trained["model"]["skeleton"], path)[1].crop_dataset("train")
    if count > len(crops) // 2:
        raise UsageError(
            f"int8.crops={count}: take from 1 to {len(crops) // 2}, half of the {len(crops)} training persons"
        )
    rows = np.linspace(0, len(crops) - 1, 2 * count).astype(int)
    images = np.stack([np.asarray(crops[int(row)]["image"]) for row in rows])
    return Calibration(images[::2], images[1::2], settings["int8"]["max_moved"])

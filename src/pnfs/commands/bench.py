"""`pnfs bench`: measurements, alternatives in turns."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from pnfs.bench.data import bench_data
from pnfs.bench.evaluation import bench_evaluation, decoding_errors
from pnfs.bench.inference import bench_inference
from pnfs.bench.report import Section, formatted, write_report
from pnfs.bench.timing import Timing, ceilings
from pnfs.bench.training import (
    Grouping,
    StepSettings,
    cost_against_parts,
    ladder,
    step_times,
    step_times_apart,
)
from pnfs.body import PartMode, skeleton_by_name
from pnfs.commands.configuration import UsageError, configuration_folder, plain
from pnfs.models import PoseNetwork
from pnfs.models.backbones import HRNet, ResNet
from pnfs.models.baselines import HRNetPose, SimpleBaseline
from pnfs.training.memory import keep_freed_memory

console = Console()

_Named = tuple[str, Section]
"""A key that stays the same from run to run, and what stands under it."""


def run(config: DictConfig) -> None:
    settings = plain(config)
    device = _device(settings["device"])
    if settings["threads"] is not None:
        torch.set_num_threads(settings["threads"])
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    measures: Mapping[str, Callable[[dict[str, Any], torch.device], Iterator[_Named]]] = {
        "ceilings": _ceilings,
        "ladder": _ladder,
        "parts": _parts,
        "inference": _inference,
        "data": _data,
        "evaluation": _evaluation,
    }
    unknown = [name for name in settings["sections"] if name not in measures]
    if unknown:
        raise UsageError(
            f"sections: there is no {', '.join(unknown)}; there are {', '.join(measures)}"
        )
    files: dict[str, Path] = {}
    for name in settings["sections"]:
        console.print(f"measuring: {name}")
        for key, section in measures[name](settings, device):
            console.print(section_table(section))
            # After each, so that what was measured is not lost if the next one fails.
            files = write_report(Path(settings["out"]), {key: section}, machine(device))
    for what, path in files.items():
        console.print(f"{what}: {path}", soft_wrap=True)


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers hold for."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def section_table(section: Section) -> Table:
    """A section for the terminal."""
    table = Table(title=section.title, caption=section.note or None)
    for index, column in enumerate(section.rows[0]):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in section.rows:
        table.add_row(*(formatted(value) for value in row.values()))
    return table


def groupings(counts: list[int]) -> dict[int, Grouping]:
    """P -> MPII's joints by part, from the part modes' files."""
    found: dict[int, Grouping] = {}
    for count in counts:
        path = configuration_folder() / "parts" / f"p{count}.yaml"
        if not path.is_file():
            raise UsageError(f"part_counts: there is no part mode with {count} parts")
        found[count] = OmegaConf.to_container(OmegaConf.load(path))["mpii"]  # type: ignore[index,call-overload]
    return found


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda: PyTorch sees no GPU here")
    return torch.device(asked)


def _step_arguments(settings: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    height, width = settings["input_size"]
    return {
        "device": device,
        "batch_size": settings["batch_size"],
        "input_size": (height, width),
        "rounds": settings["rounds"],
        "repeats": settings["repeats"],
    }


def _of_size(settings: Mapping[str, Any]) -> str:
    height, width = settings["input_size"]
    return f"batch {settings['batch_size']}, {height}x{width}"


def _rows(times: Mapping[str, Timing], base: str, batch: int) -> list[dict[str, Any]]:
    return [
        {
            "how": name,
            f"speed-up over {base}": times[base].median / t.median,
            "ms": 1e3 * t.median,
            "fastest ms": 1e3 * t.low,
            "slowest ms": 1e3 * t.high,
            "persons/s": batch / t.median,
        }
        for name, t in times.items()
    ]


def _ladder(settings: dict[str, Any], device: torch.device) -> Iterator[_Named]:
    for count, grouping in groupings(settings["part_counts"]).items():
        times = _times_of_their_own(grouping, ladder(device), settings, device)
        base = next(iter(times))
        rows = _rows(times, base, settings["batch_size"])
        yield (
            f"ladder P={count}",
            Section(
                title=f"One optimisation after the other, training step, P={count}, {_of_size(settings)}",
                rows=rows,
                bars=("how", f"speed-up over {base}"),
            ),
        )


def _times_of_their_own(
    grouping: Grouping,
    how: Mapping[str, StepSettings],
    settings: Mapping[str, Any],
    device: torch.device,
) -> dict[str, Timing]:
    """Times of steps that may differ in what holds for a process."""
    arguments = _step_arguments(settings, device)
    if device.type != "cpu":
        return step_times(grouping, how, **arguments)
    del arguments["device"]
    return step_times_apart(grouping, how, **arguments)


def _parts(settings: dict[str, Any], device: torch.device) -> Iterator[_Named]:
    keep_freed_memory()
    how = StepSettings(
        bfloat16=settings["bfloat16"],
        compiled=settings["compiled"],
        fused_optimizer=True,
    )
    modes = groupings(settings["part_counts"])
    arguments = _step_arguments(settings, device)
    times = {p: step_times(mode, {"": how}, **arguments)[""] for p, mode in modes.items()}
    rows = [
        {
            "P": row["parts"],
            "MACs": row["macs"],
            "MACs / first": row["macs_ratio"],
            "step time / first": row["seconds_ratio"],
            "ms": 1e3 * row["seconds"],
            "persons/s": settings["batch_size"] / row["seconds"],
        }
        for row in cost_against_parts(modes, times, arguments["input_size"])
    ]
    precision = "bfloat16" if settings["bfloat16"] else "float32"
    compiled = ", compiled" if settings["compiled"] else ""
    title = f"Cost against P, training step, {_of_size(settings)}, {precision}{compiled}"
    yield "parts", Section(title=title, rows=rows, bars=("P", "step time / first"))


def _ceilings(settings: dict[str, Any], device: torch.device) -> Iterator[_Named]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    reached = ceilings(device, dtype)
    rows = [
        {"what": f"matrix product, {dtype}", "reached": reached["product_flops"], "unit": "FLOP/s"},
        {"what": "copy, read and written", "reached": reached["copy_bytes"], "unit": "B/s"},
    ]
    yield "ceilings", Section(title="What the machine reaches", rows=rows)


def _data(settings: dict[str, Any], device: torch.device) -> Iterator[_Named]:
    keep_freed_memory()
    found = bench_data(rounds=settings["rounds"])
    slowest_first = found["persons_per_second"]
    naive = next(iter(slowest_first.values()))
    rows = [
        {"how": name, "times as fast as naive": rate / naive, "persons/s": rate}
        for name, rate in slowest_first.items()
    ]
    title = "Crops of persons, one core: from 1280x720 JPEGs, from the cache"
    ratios = ", ".join(f"{name}: {value:.2f}" for name, value in found["ratios"].items())
    bars = ("how", "times as fast as naive")
    yield "data", Section(title=title, rows=rows, note=ratios, bars=bars)


def _evaluation(settings: dict[str, Any], device: torch.device) -> Iterator[_Named]:
    # In a process of its own: how its memory lies does not depend on what was measured before.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        speed = pool.submit(bench_evaluation, rounds=settings["rounds"]).result()
    ratio = "time / time of pnfs"
    rows = [
        {"how": f"loop over joints, {name}", "seconds": loop["seconds"], ratio: loop["ratio"]}
        for name, loop in speed["loops"].items()
    ]
    rows.append({"how": "pnfs", "seconds": speed["seconds"], ratio: 1.0})
    title = f"Decoding and PCKh of {speed['persons']} persons, {speed['joints']} joints, one core"
    yield "evaluation", Section(title=title, rows=rows, bars=("how", ratio))
    errors = [
        {"decoder": method} | {f"noise {noise}": error for noise, error in by_noise.items()}
        for method, by_noise in decoding_errors().items()
    ]
    yield (
        "decoding",
        Section(
            title="Mean distance of decoded joints from the truth, in crop pixels (stride 4)",
            rows=errors,
            note="Gaussians of sigma 2 at places between pixels, with white noise on the maps.",
        ),
    )


def _inference(settings: dict[str, Any], device: torch.device) -> Iterator[_Named]:
    if device.type != "cpu":
        raise UsageError("inference is measured on the CPU: set device=cpu for it")
    skeleton = skeleton_by_name("mpii")
    modes = {
        f"P={count}": PartMode(skeleton, grouping)
        for count, grouping in groupings(settings["part_counts"]).items()
    }
    height, width = settings["input_size"]
    found = bench_inference(
        modes,
        others=_baselines() if settings["baselines"] else None,
        batches=settings["inference_batches"],
        input_size=(height, width),
        rounds=settings["rounds"],
        threads=torch.get_num_threads(),
    )
    for name, batches in found:
        for batch, forms in batches.items():
            base = next(iter(forms))
            rows = [
                {
                    "how": form,
                    f"speed-up over {base}": values["speedup"],
                    "ms": values["ms"],
                    "fastest ms": values["ms_low"],
                    "largest difference of scores": values["difference"],
                }
                for form, values in forms.items()
            ]
            yield (
                f"inference {name} batch {batch}",
                Section(
                    title=f"Inference, {name}, batch {batch}, {height}x{width}, float32",
                    rows=rows,
                    bars=("how", f"speed-up over {base}") if batch == 1 else None,
                ),
            )


def _baselines() -> dict[str, PoseNetwork]:
    return {
        "SimpleBaseline-R50": SimpleBaseline(
            backbone=ResNet(depth=50, weights="none"), skeleton="mpii"
        ),
        "HRNet-W32": HRNetPose(
            backbone=HRNet(width=32, last_stage=4, finest_only=True, weights="none"),
            skeleton="mpii",
        ),
    }

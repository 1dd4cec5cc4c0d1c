"""Everything that is measured on a CUDA device, in one go: `python experiments/bench/cuda.py OUT`.

Networks for all P are compiled at the same time, in processes of their own, since that takes minutes; then they
are timed one by one, each with the device to itself. The run at MPII's size is a real `pnfs train`.
"""

import argparse
import csv
import multiprocessing
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from pnfs.bench.report import Section, write_report
from pnfs.bench.timing import Timing, ceilings, take_turns
from pnfs.bench.training import StepSettings, TrainingStep, ablation_network, ladder
from pnfs.commands.bench import groupings, machine
from pnfs.models.cost import measure_cost

PERSONS = 22_246
"""Of MPII's training set."""
EPOCHS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 3, 5, 8])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--persons", type=int, default=PERSONS)
    parser.add_argument("--train-batch", type=int, default=128)
    parser.add_argument("--patience", type=float, default=420, help="seconds to wait for compilers")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    reached = ceilings(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    rows = [{"what": name, "reached": f"{value:.3g}"} for name, value in reached.items()]
    save = Saver(arguments.out, device)
    save("ceilings", Section(title="What the device reaches (FLOP/s, B/s)", rows=rows))
    warm = start_training(arguments, warm_up=True)
    times = time_steps(arguments)
    warm.wait()
    if times:
        save("parts", parts_section(arguments, times, reached))
        steps = ladder_rows(times, arguments.batch, compiled=device.type == "cuda")
        if steps:
            title = f"One optimisation after the other, training step, P=3, {size_of(arguments)}"
            save("ladder P=3", Section(title=title, rows=steps, bars=("how", "speed-up")))
    save("end to end", end_to_end(arguments))


class Saver:
    """Writes after each section, so that what was measured is not lost."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.device = device

    def __call__(self, name: str, section: Section) -> None:
        write_report(self.folder, {name: section}, machine(self.device))
        print(section.title, *section.rows, section.note, sep="\n  ", flush=True)


def size_of(arguments: argparse.Namespace) -> str:
    return f"batch {arguments.batch}, {arguments.side}x{arguments.side}"


def measure_one(count, arguments, ready, go, results) -> None:
    """One process: compile, say so, wait for its turn, time."""
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    settings = StepSettings(bfloat16=on_gpu, fused_optimizer=on_gpu, compiled=on_gpu)
    size = {"batch_size": arguments.batch, "input_size": (arguments.side, arguments.side)}
    found: dict[str, Timing] = {}
    try:
        grouping = groupings([count])[count]
        step = TrainingStep(grouping, settings, device=device, **size)
        for _ in range(3):
            step()
        ready.set()
        go.wait()
        found["all"] = take_turns({"": step}, device=device, repeats=8)[""]
        if count == 3:
            for name, how in list(ladder(device).items())[:-1]:
                eager = TrainingStep(grouping, how, device=device, **size)
                found[name] = take_turns({"": eager}, device=device, rounds=3, repeats=3)[""]
                del eager
                if on_gpu:
                    torch.cuda.empty_cache()
    except Exception as error:
        print(f"P={count}: {type(error).__name__}: {str(error)[:500]}", file=sys.stderr, flush=True)
    finally:
        ready.set()
        results.put((count, found))


def time_steps(arguments: argparse.Namespace) -> dict[int, dict[str, Timing]]:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = {}
    for count in arguments.parts:
        ready, go = context.Event(), context.Event()
        worker = context.Process(target=measure_one, args=(count, arguments, ready, go, results))
        worker.start()
        workers[count] = (worker, ready, go)
    deadline = time.monotonic() + arguments.patience
    for _, ready, _ in workers.values():
        ready.wait(max(0.0, deadline - time.monotonic()))
    print("compiled; timing one by one", flush=True)
    times = {}
    for worker, ready, go in workers.values():
        if not ready.is_set():
            worker.kill()
            continue
        go.set()
        count, found = results.get()
        worker.join()
        if found:
            times[count] = found
    return times


def parts_section(arguments, times, reached) -> Section:
    rows = []
    size = (arguments.side, arguments.side)
    modes = groupings(arguments.parts)
    macs = {p: measure_cost(ablation_network(modes[p]), size).macs for p in times}
    first = min(times)
    for count, found in times.items():
        seconds = found["all"].median
        # Forward once, backward twice the work, two operations a multiply-accumulate.
        flops = 6 * macs[count] * arguments.batch / seconds
        rows.append(
            {
                "P": count,
                "MACs / first": macs[count] / macs[first],
                "step time / first": seconds / times[first]["all"].median,
                "ms": 1e3 * seconds,
                "persons/s": arguments.batch / seconds,
                "share of matrix-product ceiling": flops / reached["product_flops"],
            }
        )
    title = f"Cost against P, training step with all optimisations, {size_of(arguments)}"
    return Section(title=title, rows=rows, bars=("P", "step time / first"))


def ladder_rows(times: dict[int, dict[str, Timing]], batch: int, compiled: bool) -> list[dict]:
    found = times.get(3, {})
    names = [name for name in found if name != "all"]
    if not names:
        return []
    base = found[names[0]].median
    order = {name: found[name].median for name in names}
    if compiled:
        order["+ compiled"] = found["all"].median
    return [
        {"how": name, "speed-up": base / s, "ms": 1e3 * s, "persons/s": batch / s}
        for name, s in order.items()
    ]


def start_training(arguments: argparse.Namespace, warm_up: bool) -> subprocess.Popen:
    """A run of `pnfs train` at MPII's size; the warm-up leaves compiled kernels and the cache behind."""
    on_gpu = arguments.device == "cuda"
    command = [
        sys.executable, "-c", "from pnfs.commands.main import main; main()", "train",
        "dataset=synthetic", f"dataset.train={arguments.persons}", "dataset.val=256",
        f"dataset.image_size=[{arguments.side},{arguments.side}]",
        f"input_size=[{arguments.side},{arguments.side}]", f"batch_size={arguments.train_batch}",
        f"trainer={'gpu' if on_gpu else 'cpu'}", "backbone.weights=none", "workers=10",
        f"acceleration.cache={arguments.work / 'cache'}", "acceleration.augment=device",
        f"run_root={arguments.work / ('warm' if warm_up else 'run')}",
        f"epochs={1 if warm_up else 3}",
        *(["+trainer.limit_train_batches=3", "acceleration.resident=false"] if warm_up else []),
    ]  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = (arguments.out / f"train_{'warm' if warm_up else 'run'}.log").open("w")
    with log if not warm_up else nullcontext():
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def end_to_end(arguments: argparse.Namespace) -> Section:
    start_training(arguments, warm_up=False).wait()
    title = f"`pnfs train`, {arguments.persons:,} persons, P=3, batch {arguments.train_batch}"
    files = list((arguments.work / "run").rglob("metrics.csv"))
    column = "train/persons_per_second"
    speeds = [
        float(row[column])
        for file in files
        for row in csv.DictReader(file.open())
        if row.get(column)
    ]
    if not speeds:
        return Section(title=title, rows=[{"persons/s": None}], note="no epoch was finished")
    rows = [
        {
            "epoch": epoch,
            "persons/s": speed,
            f"minutes for {EPOCHS} epochs of {PERSONS:,} persons": PERSONS * EPOCHS / speed / 60,
        }
        for epoch, speed in enumerate(speeds)
    ]
    note = "Augmentation and logging included, validation not; the first epoch compiles and tunes."
    return Section(title=title, rows=rows, note=note)


if __name__ == "__main__":
    main()

"""Hand-written runs of hand-written rows."""

from pathlib import Path
from typing import Any

from pnfs.reproduce.results import Results, Target, find_results, read_published
from pnfs.runs.identity import run_identity
from pnfs.runs.record import write_result
from pnfs.runs.state import find_runs

PAPER = """# Source: a book.
method,who,x,x_std,params,flops
cited one,cited,80.0,,,
seeded,ours,87.1,0.2,3.3,1.2
lonely,ours,86.0,,,
"""


def target_of(folder: Path, *, paper: str = PAPER, **changes: Any) -> Target:
    (folder / "paper.csv").write_text(paper)
    rows, scores = {"seeded": "seeded", "lonely": "lonely"}, {"x": "PCKh@0.5"}
    about = {"name": "table9", "title": "Table IX: numbers", "tests": "Does it add up?", "source": "a book",
             "kind": "table", "scores": scores, "rows": rows} | changes  # fmt: skip
    return Target(**about, published=read_published(folder, scores))


def settings(row: str, seed: int, backbone: str = "MobileNet") -> dict[str, Any]:
    return {
        "seed": seed,
        "row": row,
        "dataset": {"_target_": "data.MPII", "root": "somewhere"},
        "model": {"backbone": {"_target_": f"nets.{backbone}", "weights": "none"}},
        "input_size": [64, 32],
        "epochs": 3,
        "batch_size": 8,
        "trainer": {"precision": "32-true", "devices": 2},
    }


def record(config: dict[str, Any], score: float, **changes: Any) -> dict[str, Any]:
    parameters = {"parameters": 3_300_000, "live_parameters": 2_890_000}
    return {
        "scores": {"PCKh@0.5": score, "PCKh@0.5/head": 90.0, "PCKh@0.1": 10.0, "PCKh@0.11": 11.0},
        "cost": {**parameters, "macs": 1_250_000_000, "macs_by_output": 3 * 2**29},
        "seconds": 43_200.0,
        "device": "H100",
        "config": config,
        "identity": run_identity(config, {"train": "some persons"}),
    } | changes


def write_run(root: Path, row: str, seed: int, score: float, **changes: Any) -> Path:
    config = settings(row, seed)
    write_result(root / f"{row}{seed}", record(config, score, **changes))
    return root / f"{row}{seed}"


def results_of(root: Path, target: Target) -> Results:
    return find_results(target, settings, find_runs(root))

"""`pnfs show`: pictures of a found architecture."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from pnfs.commands.configuration import UsageError, plain
from pnfs.training.callbacks import TRAJECTORY, read_trajectory
from pnfs.training.checkpoints import read_architecture
from pnfs.viz.curves import plot_trajectory
from pnfs.viz.fabrics import draw_fabrics

console = Console()


def run(config: DictConfig) -> None:
    settings = plain(config)
    suffix = settings["format"]
    if suffix not in ("png", "svg"):
        raise UsageError(f"format={suffix}: choose png or svg")
    asked = Path(settings["checkpoint"]).expanduser()
    architecture = read_architecture(asked)
    # The run's folder of a checkpoint, JSON file, or the folder itself.
    parent = asked.parent.parent if asked.parent.name == "checkpoints" else asked.parent
    run_folder = asked if asked.is_dir() else parent
    folder = Path(settings["out"]) if settings["out"] else run_folder
    folder.mkdir(parents=True, exist_ok=True)
    written = {"subnetworks": folder / f"architecture.{suffix}"}
    draw_fabrics(architecture, written["subnetworks"])
    if architecture.backbone is not None:
        written["backbone"] = folder / f"architecture_backbone.{suffix}"
        draw_fabrics(architecture, written["backbone"], fabrics="backbone")
    if (run_folder / TRAJECTORY).is_file():
        trajectory = read_trajectory(run_folder / TRAJECTORY)
        written["trajectory"] = folder / f"trajectory.{suffix}"
        epochs = [epoch + 1 for epoch in trajectory]
        plot_trajectory(list(trajectory.values()), written["trajectory"], epochs=epochs)
    for what, picture in written.items():
        console.print(f"{what}: {picture}", soft_wrap=True)

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
    asked = Path(settings["checkpoint"]).expanduser()
    architecture = read_architecture(asked)
    folder = Path(settings["out"]) if settings["out"] else _folder_of(asked)
    folder.mkdir(parents=True, exist_ok=True)
    suffix = settings["format"]
    if suffix not in ("png", "svg"):
        raise UsageError(f"format must be png or svg, got {suffix!r}")
    pictures = [("subnetworks", folder / f"architecture.{suffix}")]
    draw_fabrics(architecture, pictures[0][1])
    if architecture.backbone is not None:
        pictures.append(("backbone", folder / f"architecture_backbone.{suffix}"))
        draw_fabrics(architecture, pictures[1][1], fabrics="backbone")
    history = _folder_of(asked) / TRAJECTORY
    if history.is_file():
        trajectory = read_trajectory(history)
        pictures.append(("trajectory", folder / f"trajectory.{suffix}"))
        plot_trajectory(
            list(trajectory.values()),
            pictures[-1][1],
            epochs=[epoch + 1 for epoch in trajectory],
        )
    for what, picture in pictures:
        console.print(f"{what}: {picture}", soft_wrap=True)


def _folder_of(path: Path) -> Path:
    """The run's folder of a checkpoint, JSON file, or the folder itself."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent

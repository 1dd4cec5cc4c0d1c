"""`pnfs browse`: contact sheets of what a network sees."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from pnfs.body import PartMode
from pnfs.commands.configuration import UsageError, build_source, plain
from pnfs.viz.browse import Crops, chosen_persons, crop_sheet, flip_sheet, target_sheet
from pnfs.viz.style import save_image

console = Console()


def run(config: DictConfig) -> None:
    settings = plain(config)
    _check(settings)
    source = build_source(settings["dataset"])
    persons = source.persons(settings["split"])
    name = persons.skeleton.name
    if name not in settings["parts"]:
        raise UsageError(
            f"the chosen part mode groups the joints of {', '.join(settings['parts'])}, not those "
            f"of {name}; add `{name}: {{part: [joint, ...], ...}}` to it"
        )
    parts = PartMode(persons.skeleton, settings["parts"][name])
    rows = chosen_persons(persons, settings["persons"], settings["seed"])
    few = chosen_persons(persons, settings["rows"], settings["seed"])
    crops = Crops(
        persons,
        input_size=tuple(settings["input_size"]),
        augmentation=instantiate(settings["augmentation"], _convert_="all"),
        seed=settings["seed"],
        epoch=settings["epoch"],
        unbiased=settings["codec"]["unbiased"],
    )
    codec = {key: settings["codec"][key] for key in ("sigma", "quantised")}
    folder = Path(settings["out"])
    for what, sheet in (
        ("crops", lambda: crop_sheet(crops, rows)),
        ("flips", lambda: flip_sheet(crops, few)),
        ("targets", lambda: target_sheet(crops, few, parts=parts, **codec)),
    ):
        path = folder / f"{what}.png"
        save_image(path, sheet())
        console.print(f"{what}: {path}", soft_wrap=True)


def _check(settings: dict[str, Any]) -> None:
    """What the sheets need that no loader checks."""
    if "_target_" not in settings["dataset"]:
        raise UsageError("browse shows a dataset by name: dataset=mpii dataset.root=…")
    for key in ("persons", "rows"):
        if settings[key] < 1:
            raise UsageError(f"{key} must be at least 1, got {settings[key]}")
    size = settings["input_size"]
    if len(size) != 2 or any(side < 32 or side % 32 for side in size):
        raise UsageError(f"input_size must be (height, width), multiples of 32, got {size}")

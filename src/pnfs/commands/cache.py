"""`pnfs cache`: write person crops once, for training that reads them instead of the images."""

import time
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pnfs.commands.configuration import UsageError, build_source, plain
from pnfs.data.cache import About, CachedCrops, CacheSettings
from pnfs.data.cache_writer import ensure_cache
from pnfs.data.persons import DataError, Persons

console = Console()


def run(config: DictConfig) -> None:
    if "_target_" not in config.dataset:
        raise UsageError("choose the dataset whose persons are to be cached: dataset=<name>")
    settings = plain(config)
    size = settings["size"]
    input_size = (size, size) if isinstance(size, int) else tuple(size)
    source = build_source(settings["dataset"])
    augmentation = instantiate(settings["augmentation"], _convert_="all")
    plain_crops = CacheSettings(
        input_size=input_size,
        resolution=settings["resolution"],
        format=settings["format"],
        quality=settings["quality"],
        reduced_decoding=settings["reduced_decoding"],
    )
    table = Table("split", "persons", "crop px (h x w)", "MB", "s", "file")
    for split in settings["splits"]:
        started = time.monotonic()
        persons = source.persons(split)
        # As in training: only the training persons are augmented.
        wanted = plain_crops.with_room_for(augmentation if split == "train" else None)
        path = ensure_cache(
            settings["out"],
            persons,
            wanted,
            workers=settings["workers"],
            rebuild=settings["rebuild"],
        )
        if settings["verify"]:
            _verify(path, persons)
        height, width = About.read(path).settings.crop_size
        seconds = time.monotonic() - started
        table.add_row(
            split,
            f"{len(persons):,}",
            f"{height} x {width}",
            f"{path.stat().st_size / 1e6:,.1f}",
            f"{seconds:.1f}",
            str(path),
        )
    console.print(table)
    console.print(
        f"train from it: pnfs train input_size=[{input_size[0]},{input_size[1]}] "
        f"data.cache={settings['out']} and the same dataset, augmentation, resolution",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _verify(path: Path, persons: Persons) -> None:
    crops = CachedCrops(path, persons)
    damaged = []
    for row, id_ in enumerate(persons.ids.tolist()):
        try:
            crops.view(row, 1.0)
        except DataError:
            damaged.append(id_)
    if damaged:
        names = ", ".join(damaged[:5]) + (", …" if len(damaged) > 5 else "")
        raise DataError(
            f"{path}: {len(damaged)} of {len(crops)} crops are damaged: {names}; run the same "
            "command with rebuild=true"
        )
    console.print(f"{persons.name}: all {len(crops):,} crops are as they were written")

"""`pnfs cache`: write person crops once, for training that reads them instead of the images."""

import time
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pnfs.commands.configuration import UsageError, build_source, plain
from pnfs.data.cache import CachedCrops, CacheSettings, read_manifest, settings_of
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
    )
    table = Table("split", "persons", "crop px (h x w)", "MB", "s", "folder")
    for split in settings["splits"]:
        started = time.monotonic()
        persons = source.persons(split)
        # As in training: only the training persons are augmented.
        wanted = plain_crops.with_room_for(augmentation if split == "train" else None)
        folder = ensure_cache(
            settings["out"],
            persons,
            wanted,
            workers=settings["workers"],
            rebuild=settings["rebuild"],
        )
        if settings["verify"]:
            _verify(folder, persons)
        height, width = settings_of(read_manifest(folder)).crop_size
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        seconds = time.monotonic() - started
        table.add_row(
            split,
            f"{len(persons):,}",
            f"{height} x {width}",
            f"{megabytes:,.1f}",
            f"{seconds:.1f}",
            str(folder),
        )
    console.print(table)
    console.print(
        f"train from it: pnfs train input_size=[{input_size[0]},{input_size[1]}] "
        f"data.cache={settings['out']} and the same dataset, augmentation, resolution",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _verify(folder: Path, persons: Persons) -> None:
    crops = CachedCrops(
        folder, originals=persons.images, original_index=persons.image_index, ids=persons.ids
    )
    damaged = crops.damaged()
    if damaged:
        names = ", ".join(damaged[:5]) + (", …" if len(damaged) > 5 else "")
        raise DataError(
            f"{folder}: {len(damaged)} of {len(crops)} crops are damaged: {names}; run the same "
            "command with rebuild=true"
        )
    console.print(f"{persons.name}: all {len(crops):,} crops are as they were written")

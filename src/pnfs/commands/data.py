"""`pnfs data`: checks a dataset, or writes its crops into a cache."""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from rich.table import Table
from rich.text import Text

from pnfs.commands.building import build_dataset
from pnfs.commands.configuration import UsageError, console
from pnfs.data.cache import CacheSettings, ensure_cache
from pnfs.data.check import SEVERITIES, Finding, inspect_dataset
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.data.images import DataError
from pnfs.viz.poses import crop_sheet
from pnfs.viz.style import save_image

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
PICTURED = 24


def run(settings: dict[str, Any]) -> None:
    action, dataset = settings["action"], settings.get("dataset")
    if not dataset or "_target_" not in dataset:
        raise UsageError(f"action={action} needs a dataset by name: dataset=mpii dataset.root=…")
    {"check": check, "cache": cache}[action](settings)


def check(settings: Mapping[str, Any]) -> None:
    """Prints and writes findings, and draws augmented crops; exit status 1 if there is an error."""
    findings = check_dataset(settings["dataset"], settings)
    for finding in findings:
        what = (f"{finding.severity}: ", STYLES[finding.severity]), (f"{finding.where}, {finding.check}: ", "bold")
        console.print(Text.assemble(*what, finding.problem))
    counts = Counter(finding.severity for finding in findings)
    if settings["out"]:
        out = Path(settings["out"])
        out.mkdir(parents=True, exist_ok=True)
        content = json.dumps([f._asdict() for f in findings], indent=1, ensure_ascii=False)
        (out / "check.json").write_text(content + "\n", encoding="utf-8")
        console.print(f"findings: {out / 'check.json'}")
        if not counts["error"]:
            draw_crops(settings, out / "crops.png")
            console.print(f"crops: {out / 'crops.png'}")
    console.print(", ".join(f"{severity}s: {counts[severity]}" for severity in SEVERITIES))
    if counts["error"]:
        sys.exit(1)


def check_dataset(config: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Finding]:
    """Findings about the dataset a configuration names, also if it cannot be opened at all."""
    if "check_images" in config:
        # The loader would stop at missing images; the inspection lists them and goes on.
        config = {**config, "check_images": False}
    try:
        dataset = build_dataset(config)
    except (DataError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(cause, DataError):
            raise
        return [Finding("error", "layout", str(config.get("root", "")), str(cause))]
    options = {key: settings[key] for key in ("splits", "images")}
    return inspect_dataset(dataset, workers=settings["workers"] or None, **options)


def draw_crops(settings: Mapping[str, Any], path: Path) -> None:
    """Crops of some training persons with their labelled joints, as a network sees them."""
    persons = build_dataset(settings["dataset"]).persons(settings["splits"][0])
    augmentation = instantiate(settings["augmentation"], _convert_="all")
    crops = CropDataset(
        persons, input_size=tuple(settings["input_size"]), augmentation=augmentation, seed=settings["seed"]
    )
    rows = np.random.default_rng([settings["seed"], len(persons)]).permutation(len(persons))[:PICTURED]
    save_image(path, crop_sheet(crops, [SampleKey(0, row) for row in sorted(rows.tolist())]))


def cache(settings: Mapping[str, Any]) -> None:
    """Writes a crop cache for each split, or finishes it, or says that it is there."""
    out = settings["out"] or f"{settings['run_root']}/cache"
    augmentation = instantiate(settings["augmentation"], _convert_="all")
    dataset = build_dataset(settings["dataset"])
    plain_crops = CacheSettings(tuple(settings["input_size"]), **settings["cache"])
    table = Table("split", "persons", "crop px (h x w)", "MB", "s", "file")
    for split in settings["splits"]:
        started, persons = time.monotonic(), dataset.persons(split)
        # As in training: only the training persons are augmented.
        wanted = plain_crops.with_room_for(augmentation if split == "train" else None)
        path = ensure_cache(out, persons, wanted, workers=settings["workers"])
        height, width = wanted.crop_size
        megabytes, seconds = path.stat().st_size / 1e6, time.monotonic() - started
        numbers = (f"{height} x {width}", f"{megabytes:,.1f}", f"{seconds:.1f}")
        table.add_row(split, f"{len(persons):,}", *numbers, str(path))
    console.print(table)
    codec = " and codec=udp" if plain_crops.unbiased else "; not with codec=udp (cache.unbiased=true)"
    console.print(f"train from it: data.cache={out}, the same dataset, augmentation and input_size{codec}")

"""`pnfs data`: check a dataset and this machine, look at its crops, or write them into a cache."""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pnfs.body import PartMode
from pnfs.codec import Codec
from pnfs.commands.configuration import UsageError, build_source, part_mode_without, plain
from pnfs.commands.machine import inspect_machine
from pnfs.data.cache import CacheSettings
from pnfs.data.cache_writer import ensure_cache
from pnfs.data.check import inspect_dataset, worst_first
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.data.faults import SEVERITIES, Finding, finding_of_error
from pnfs.data.images import DataError
from pnfs.runs.record import json_ready
from pnfs.viz.sheets import chosen_persons, crop_sheet, flip_sheet, target_sheet
from pnfs.viz.style import save_image

console = Console()
STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def run(config: DictConfig) -> None:
    settings = plain(config)
    action, dataset = settings["action"], settings.get("dataset")
    if (dataset and "_target_" not in dataset) or (action != "check" and not dataset):
        raise UsageError(f"action={action} needs a dataset by name: dataset=mpii dataset.root=…")
    if action != "check":
        settings["out"] = settings["out"] or f"{settings['run_root']}/{action}"
    {"check": check, "browse": browse, "cache": cache}[action](settings)


def check(settings: Mapping[str, Any]) -> None:
    """Prints and writes findings; exit status 1 if there is an error."""
    findings = {"machine": inspect_machine(settings["run_root"], settings["trainer"]["precision"])}
    console.print(findings_table("This machine", findings["machine"]))
    dataset = settings.get("dataset")
    if dataset:
        findings["dataset"] = check_dataset(dataset, settings)
        title = f"Dataset {dataset.get('root') or dataset['_target_'].rpartition('.')[2]}"
        console.print(findings_table(title, findings["dataset"]))
    if settings["out"]:
        path = Path(settings["out"]) / "check.json"
        content = {name: [asdict(finding) for finding in found] for name, found in findings.items()}
        text = json.dumps(json_ready(content), indent=1, ensure_ascii=False, allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")
        console.print(f"findings: {path}", soft_wrap=True)
    counts = Counter(finding.severity for found in findings.values() for finding in found)
    console.print(", ".join(f"{severity}s: {counts[severity]}" for severity in SEVERITIES))
    if counts["error"]:
        sys.exit(1)


def check_dataset(dataset: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Finding]:
    """Findings about the dataset a configuration names, also if it cannot be opened at all."""
    if "check_images" in dataset:
        # The loader would stop at missing images; the inspection lists them and goes on.
        dataset = {**dataset, "check_images": False}
    try:
        source = build_source(dataset)
    except (DataError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(cause, DataError):
            raise
        return [finding_of_error(cause, "layout", str(dataset.get("root", "")))]
    return inspect_dataset(
        source,
        splits=settings["splits"],
        images=settings["check"]["images"],
        sample=settings["check"]["sample"],
        workers=settings["workers"] or None,
    )


def findings_table(title: str, findings: Sequence[Finding]) -> Table:
    """One row a finding, errors first; the advice under what was found."""
    table = Table("", "check", "finding", title=title, show_lines=True, title_justify="left")
    table.columns[2].overflow = "fold"
    for finding in worst_first(findings):
        text = Text.assemble((finding.where, "bold"), "\n", finding.problem)
        if finding.advice:
            text.append(f"\n→ {finding.advice}", "italic")
        table.add_row(Text(finding.severity, STYLES[finding.severity]), finding.check, text)
    if not findings:
        table.add_row(Text("good", "green"), "all", "nothing to report")
    return table


def browse(settings: Mapping[str, Any]) -> None:
    """Writes contact sheets of what a network sees."""
    chosen, codec, seed = settings["browse"], Codec(**settings["codec"]), settings["seed"]
    persons = build_source(settings["dataset"]).persons(settings["splits"][0])
    skeleton = persons.skeleton
    if skeleton.name not in settings["parts"]:
        raise part_mode_without(skeleton.name, settings["parts"])
    crops = CropDataset(
        persons,
        input_size=tuple(settings["input_size"]),
        augmentation=instantiate(settings["augmentation"], _convert_="all"),
        seed=seed,
        unbiased=codec.unbiased,
    )
    keys, few = (
        [SampleKey(chosen["epoch"], row) for row in chosen_persons(persons, chosen[key], seed)]
        for key in ("persons", "rows")
    )
    parts = PartMode(skeleton, settings["parts"][skeleton.name])
    for what, sheet in (
        ("crops", crop_sheet(crops, keys)),
        ("flips", flip_sheet(crops, few)),
        ("targets", target_sheet(crops, few, parts=parts, codec=codec)),
    ):
        path = Path(settings["out"]) / f"{what}.png"
        save_image(path, sheet)
        console.print(f"{what}: {path}", soft_wrap=True)


def cache(settings: Mapping[str, Any]) -> None:
    """Writes a crop cache for each split, or finishes it, or says that it is there."""
    chosen, size = settings["cache"], settings["input_size"]
    augmentation = instantiate(settings["augmentation"], _convert_="all")
    source = build_source(settings["dataset"])
    options = {key: chosen[key] for key in ("format", "quality", "reduced_decoding")}
    plain_crops = CacheSettings(input_size=tuple(size), **options)
    table = Table("split", "persons", "crop px (h x w)", "MB", "s", "file")
    for split in settings["splits"]:
        started, persons = time.monotonic(), source.persons(split)
        # As in training: only the training persons are augmented.
        wanted = plain_crops.with_room_for(augmentation if split == "train" else None)
        path = ensure_cache(
            settings["out"],
            persons,
            wanted,
            workers=settings["workers"],
            rebuild=chosen["rebuild"],
        )
        height, width = wanted.crop_size
        megabytes, seconds = path.stat().st_size / 1e6, time.monotonic() - started
        numbers = (f"{height} x {width}", f"{megabytes:,.1f}", f"{seconds:.1f}")
        table.add_row(split, f"{len(persons):,}", *numbers, str(path))
    console.print(table)
    console.print(
        f"train from it: pnfs train input_size=[{size[0]},{size[1]}] data.cache={settings['out']} "
        "and the same dataset and augmentation",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )

"""`pnfs doctor`: is this machine, and a dataset, fit to spend hours on?"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pnfs.commands.configuration import UsageError, build_source, plain
from pnfs.commands.machine import inspect_machine
from pnfs.data.check.dataset import inspect_dataset
from pnfs.data.check.findings import SEVERITIES, Finding, finding_of_error, worst_first
from pnfs.data.persons import DataError
from pnfs.runs.plain import json_ready

console = Console()
STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
IMAGE_CHOICES = ("all", "sample", "none")


def run(config: DictConfig) -> None:
    settings = plain(config)
    if settings["images"] not in IMAGE_CHOICES:
        raise UsageError(f"images must be {', '.join(IMAGE_CHOICES)}, got {settings['images']!r}")
    findings = {"machine": inspect_machine(settings["run_root"], settings["trainer"]["precision"])}
    console.print(findings_table("This machine", findings["machine"]))
    dataset = settings.get("dataset")
    if dataset:
        if "_target_" not in dataset:
            raise UsageError("doctor checks a dataset by name: dataset=mpii dataset.root=…")
        findings["dataset"] = check_dataset(dataset, settings)
        title = f"Dataset {dataset.get('root', dataset['_target_'].rpartition('.')[2])}"
        console.print(findings_table(title, findings["dataset"]))
    if settings["out"]:
        path = Path(settings["out"]) / "doctor.json"
        write_findings(path, findings)
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
        images=settings["images"],
        sample=settings["sample"],
        workers=settings["workers"],
    )


def findings_table(title: str, findings: Sequence[Finding]) -> Table:
    """One row a finding, errors first; the advice under what was found."""
    table = Table(title=title, show_lines=True, title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("check")
    table.add_column("finding", overflow="fold")
    for finding in worst_first(findings):
        text = Text.assemble((finding.where, "bold"), "\n", finding.problem)
        if finding.advice:
            text.append(f"\n→ {finding.advice}", "italic")
        style = STYLES[finding.severity]
        table.add_row(Text(finding.severity, style), finding.check, text)
    if not findings:
        table.add_row(Text("good", "green"), "all", "nothing to report")
    return table


def write_findings(path: Path, findings: Mapping[str, Sequence[Finding]]) -> None:
    """All findings as JSON, with every record concerned.

    Raises:
        UsageError: The file cannot be written.
    """
    content = {name: [asdict(finding) for finding in found] for name, found in findings.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(json_ready(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        )
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{path}: cannot be written: {reason}; choose another out=…") from None

"""What came out of a run is one JSON file, its record; with it stand versions, revision and device."""

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from pnfs.runs.plain import json_ready, read_json, write_json

RESULT = "result.json"


class Record(BaseModel):
    """The content of `result.json`, whatever command wrote it; no command writes another key.

    Attributes:
        primary: Name of the score that counts, an entry of `scores`; `score` is its value.
        scores: Metric -> score; of a derivation network -> metric -> score.
        evaluated_with: Everything besides weights and data that the scores depend on.
        by_joint: See `pnfs.evaluation.errors.Errors.record`.
        seconds: Time that all starts of a training have taken.
        config: Resolved, of a training; `identity` is made of it, see `run_identity`.
        data: Split -> persons, and what was left out.
        checkpoint: What was evaluated or derived from; `predictions`: the file that was evaluated.
        finished: Time, ISO 8601.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["train", "evaluate", "derive"] = "train"
    primary: str | None = None
    score: float | None = None
    scores: dict[str, Any] = {}
    untrained_scores: dict[str, float | None] = {}
    evaluated_with: dict[str, Any] = {}
    by_joint: dict[str, Any] = {}
    cost: dict[str, Any] = {}
    seconds: float | None = None
    name: str | None = None
    seed: int | None = None
    config: dict[str, Any] = {}
    identity: dict[str, Any] | None = None
    data: dict[str, Any] = {}
    dataset: dict[str, Any] = {}
    checkpoint: str | None = None
    predictions: dict[str, Any] = {}
    persons: int | None = None
    persons_without_prediction: int | None = None
    persons_without_size: int | None = None
    """Persons who are not scored, since there is no length to measure their errors by."""
    method: str | None = None
    thresholds: dict[str, float] = {}
    versions: dict[str, str] = {}
    git_revision: str | None = None
    device: str | None = None
    finished: str | None = None

    @model_validator(mode="after")
    def _has_one_score(self) -> "Record":
        if self.primary is None and self.scores and self.kind != "derive":
            self.primary = next(iter(self.scores))
        if self.primary is not None and self.score is None:
            if self.primary not in self.scores:
                raise ValueError(f"there is no score {self.primary!r}")
            self.score = self.scores[self.primary]
        return self


def provenance(accelerator: str = "auto") -> dict[str, Any]:
    """Versions, git revision, device and time, as they belong into a record.

    Args:
        accelerator: The trainer's; "cpu" computes there even if there is a GPU.
    """
    packages = ("pnfs", "torch", "torchvision", "lightning", "hydra-core", "numpy")
    return {
        "versions": {name: version(name) for name in packages}
        | {"python": platform.python_version()},
        "git_revision": _git_revision(),
        "device": _device_name(accelerator),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git_revision() -> str | None:
    """Revision of the source tree this package runs from; None outside of one."""
    here = Path(__file__).parent
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _device_name(accelerator: str) -> str:
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def write_result(folder: Path, result: Mapping[str, Any]) -> Path:
    """Writes `result.json` whole or not at all; what is nan or infinite becomes null.

    Args:
        folder: For the file.
        result: The fields of a `Record`.

    Raises:
        ValidationError: A field that a record does not have, or of another type.
    """
    # The others were set by the validator.
    record = Record.model_validate(json_ready(result))
    return write_json(folder / RESULT, record.model_dump(exclude_unset=True, mode="json"))


def read_result(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run; None where the run is not finished.

    Raises:
        PnfsError: The file is not a record.
    """
    record = read_json(folder / RESULT, Record)
    return None if record is None else record.model_dump(exclude_unset=True)

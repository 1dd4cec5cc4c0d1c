"""The record of a run, one JSON file: what came out, with versions, revision and device."""

import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from pnfs.errors import PnfsError
from pnfs.files import write_whole

RESULT = "result.json"

Content = TypeVar("Content", bound=BaseModel)


class Record(BaseModel):
    """The content of `result.json`, whatever command wrote it; no command writes another key.

    Attributes:
        primary: Name of the score that counts, an entry of `scores`; `score` is its value.
        scores: Metric -> score; of a derivation network -> metric -> score.
        evaluated_with: Everything besides weights and data that the scores depend on.
        by_joint: See `pnfs.evaluation.pck.Errors.record`.
        seconds: Time that all starts of a training have taken.
        config: Resolved, of a training; `identity` is made of it, see `run_identity`.
        data: Split -> persons, and what was left out.
        checkpoint: What was evaluated or derived from; `predictions`: the file that was evaluated.
        persons_without_size: Not scored, for want of a length to measure their errors by.
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
    method: str | None = None
    thresholds: dict[str, float] = {}
    versions: dict[str, str] = {}
    git_revision: str | None = None
    device: str | None = None
    finished: str | None = None


def provenance(accelerator: str = "auto") -> dict[str, Any]:
    """Versions, git revision, time, and the device that the trainer's `accelerator` computes on."""
    import torch  # Here and not above: `pnfs runs` is not to wait for it.

    packages = ("pnfs", "torch", "torchvision", "lightning", "hydra-core", "numpy")
    versions = {name: version(name) for name in packages} | {"python": platform.python_version()}
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    revision = None  # Outside of a source tree.
    with suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        revision = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return {"versions": versions, "git_revision": revision, "device": device, "finished": finished}


def write_result(folder: Path, result: Mapping[str, Any]) -> Path:
    """Writes the fields of a `Record` as `result.json`; another field, or type, is a `ValidationError`."""
    return write_json(folder / RESULT, Record.model_validate(result).model_dump(exclude_unset=True))


def read_result(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run; None where the run is not finished. Errors are `read_json`'s."""
    record = read_json(folder / RESULT, Record)
    return None if record is None else record.model_dump(exclude_unset=True)


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes a file whole or not at all; what is nan or infinite becomes null."""
    return write_whole(path, to_json(content, indent=2, inf_nan_mode="null") + b"\n")


def read_json(path: Path, kind: type[Content]) -> Content | None:
    """A file of a run; None where there is none. If it holds something else, a `PnfsError` names file and key."""
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise PnfsError(f"{path}: {key}: {first['msg']}; delete the file to run again") from None

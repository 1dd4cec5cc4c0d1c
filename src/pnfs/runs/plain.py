"""Plain data, and the JSON files that hold it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pnfs.errors import PnfsError


def json_ready(value: Any) -> Any:
    """Plain data with None for nan and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: json_ready(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes a file whole or not at all; what is nan or infinite becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(json_ready(content), indent=2, allow_nan=False) + "\n")
    temporary.replace(path)
    return path


def read_json(path: Path) -> dict[str, Any] | None:
    """A file of a run; None where there is none.

    Raises:
        PnfsError: It is no JSON; names the file.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise PnfsError(
            f"{path}: not a readable record ({error}); delete it to run again"
        ) from error

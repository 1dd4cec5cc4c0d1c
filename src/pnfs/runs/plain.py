"""Plain data, and the JSON files that hold it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pnfs.errors import PnfsError

Content = TypeVar("Content", bound=BaseModel)


def json_ready(value: Any) -> Any:
    """Plain data with None for nan and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: json_ready(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes a file whole or not at all; what is nan or infinite becomes null."""
    text = json.dumps(json_ready(content), indent=2, allow_nan=False) + "\n"
    temporary = path.with_suffix(".json.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # A full disk is an error without a name.
        raise OSError(error.errno, error.strerror, str(path)) from None
    return path


def read_json(path: Path, kind: type[Content]) -> Content | None:
    """A file of a run; None where there is none.

    Raises:
        PnfsError: It holds something else; names the file and the key.
    """
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise PnfsError(f"{path}: {key}: {first['msg']}; delete the file to run again") from None

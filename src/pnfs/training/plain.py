"""Plain data, as JSON files take it."""

import math
from collections.abc import Mapping
from typing import Any


def json_ready(value: Any) -> Any:
    """Plain data with None for nan and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: json_ready(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Plain data and the files that hold it."""

import json
import math

from pnfs.runs.plain import json_ready


def test_plain_data_has_null_for_what_json_has_not() -> None:
    value = {"a": [1, math.nan, (math.inf, "nan")], "b": {"c": -math.inf, "d": True}, "e": None}
    ready = json_ready(value)
    assert ready == {"a": [1, None, [None, "nan"]], "b": {"c": None, "d": True}, "e": None}
    json.dumps(ready, allow_nan=False)

"""Plain data and the files that hold it."""

import json
import math
from pathlib import Path

import pytest

from pnfs.runs.plain import json_ready, read_json, write_json


def test_plain_data_has_null_for_what_json_has_not() -> None:
    value = {"a": [1, math.nan, (math.inf, "nan")], "b": {"c": -math.inf, "d": True}, "e": None}
    ready = json_ready(value)
    assert ready == {"a": [1, None, [None, "nan"]], "b": {"c": None, "d": True}, "e": None}
    json.dumps(ready, allow_nan=False)


def test_file_is_written_whole_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "state.json"
    assert read_json(path) is None
    write_json(path, {"score": math.nan, "epochs": [1, 2]})
    assert read_json(path) == {"score": None, "epochs": [1, 2]}
    assert [file.name for file in path.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize("text", ["", '{"score": ', "[1, 2"])
def test_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"result\.json"):
        read_json(path)

"""`pnfs export` in eight bits, and what it refuses."""

from pathlib import Path

import pytest

from pnfs.errors import PnfsError
from pnfs.export.runtimes import OnnxRuntime
from tiny_runs import call, untrained_run


def test_export_in_int8_calibrates_on_the_runs_training_crops(tmp_path: Path, capsys) -> None:
    run = untrained_run(tmp_path / "run")
    # The file is called .onnx, whether or not that is said.
    asked = (f"checkpoint={run}", "precision=int8", "int8.max_moved=1")
    call("export", *asked, f"out={tmp_path / 'int8'}", "int8.crops=4")
    assert OnnxRuntime(tmp_path / "int8.onnx", 1).precision == "int8"
    assert "convolutions" in capsys.readouterr().out
    for overrides, named in (
        ([*asked, "int8.crops=5"], r"int8\.crops=5"),
        ([f"checkpoint={run}", "precision=int4"], r"precision.*int4"),
        ([f"checkpoint={run}", f"out={tmp_path / 'a.pt'}"], r"\.onnx"),
    ):
        with pytest.raises(PnfsError, match=named):
            call("export", *overrides)

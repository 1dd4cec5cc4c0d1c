"""Exported files through `pnfs.load`, `pnfs predict` and `pnfs evaluate`: scores, precision, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from pnfs.commands.configuration import UsageError
from pnfs.errors import PnfsError
from pnfs.export.runtimes import OnnxRuntime
from tiny_runs import PEOPLE, call, record_of, untrained_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a checkpoint of an untrained network, and model.onnx."""
    folder = untrained_run(tmp_path_factory.mktemp("run"))
    call("export", f"checkpoint={folder}")
    return folder


def evaluated(checkpoint: Path, out: Path, *overrides: str) -> dict[str, Any]:
    fixed = (f"checkpoint={checkpoint}", "trainer=cpu", "workers=0", f"out={out}")
    call("evaluate", *fixed, *overrides)
    return record_of(out)


@pytest.mark.parametrize("overrides", [(), ("flip_test=false", "decode_method=argmax")])
def test_an_exported_file_scores_as_its_checkpoint(run: Path, tmp_path: Path, overrides) -> None:
    file = run / "model.onnx"
    records = {
        "torch": evaluated(run, tmp_path / "torch", *overrides),
        "onnx": evaluated(file, tmp_path / "onnx", *overrides),
        "openvino": evaluated(file, tmp_path / "openvino", "runtime=openvino", *overrides),
    }
    expected, choices = records["torch"], []
    for name, record in records.items():
        assert record.keys() == expected.keys()
        assert record["scores"] == pytest.approx(expected["scores"], nan_ok=True)
        assert (record["persons"], record["dataset"]) == (6, expected["dataset"])
        chosen = record["evaluated_with"]
        assert (chosen.pop("runtime"), chosen.pop("precision")) == (name, "f32")
        choices.append(chosen)
    assert choices[0] == choices[1] == choices[2]
    for name in ("predictions_val.png", "worst_val.png"):
        assert (tmp_path / "onnx" / name).is_file()


def test_a_file_outside_of_a_run_needs_a_dataset(run: Path, tmp_path: Path, capsys) -> None:
    moved = tmp_path / "moved.onnx"
    moved.write_bytes((run / "model.onnx").read_bytes())
    with pytest.raises(UsageError, match=r"moved\.onnx.*dataset="):
        evaluated(moved, tmp_path / "out")
    record = evaluated(moved, tmp_path / "named", *PEOPLE)
    expected = evaluated(run / "model.onnx", tmp_path / "in_run")
    assert record["scores"] == pytest.approx(expected["scores"], nan_ok=True)
    assert "runtime: onnx · precision: f32" in capsys.readouterr().out
    with pytest.raises(UsageError, match="skeleton mpii"):
        evaluated(moved, tmp_path / "coco", *PEOPLE, "dataset.skeleton=coco")


def test_export_in_int8_calibrates_on_the_runs_training_crops(run: Path, tmp_path: Path, capsys) -> None:
    # The file is called .onnx, whether or not that is said.
    asked = (f"checkpoint={run}", "precision=int8", "int8.max_moved=1")
    call("export", *asked, f"out={tmp_path / 'int8'}", "int8.crops=4")
    path = tmp_path / "int8.onnx"
    assert OnnxRuntime(path, 1).precision == "int8"
    assert "convolutions" in capsys.readouterr().out
    assert evaluated(path, tmp_path / "out", *PEOPLE)["evaluated_with"]["precision"] == "int8"
    for overrides, named in (
        ([*asked, "int8.crops=5"], r"int8\.crops=5"),
        ([f"checkpoint={run}", "precision=int4"], r"precision.*int4"),
        ([f"checkpoint={run}", f"out={tmp_path / 'a.pt'}"], r"\.onnx"),
    ):
        with pytest.raises(PnfsError, match=named):
            call("export", *overrides)

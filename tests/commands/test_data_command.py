"""`pnfs data`: checks, sheets and caches; exit status, files, refusals."""

import io
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from pnfs.commands import data, machine
from pnfs.commands.configuration import UsageError
from pnfs.data.cache import read_about
from pnfs.data.synthetic import Synthetic
from tiny_runs import call
from written_datasets import write_mpii

GIB = 2**30
SMALL = ("dataset=synthetic", "dataset.train=4", "dataset.val=2", "dataset.image_size=[64,64]",
         "input_size=[32,32]", "workers=0")  # fmt: skip


def run(*overrides: str) -> str:
    """What the command prints."""
    console = data.console = Console(width=200, record=True, file=io.StringIO())
    call("data", *overrides)
    return console.export_text()


# --- check


def test_machine_alone(tmp_path: Path) -> None:
    text = run(f"run_root={tmp_path}/runs")
    assert "This machine" in text
    assert "Dataset" not in text
    assert "errors: 0" in text
    assert list(tmp_path.iterdir()) == []


def test_good_dataset_passes_and_bad_one_exits_with_1(tmp_path: Path) -> None:
    folder = tmp_path / "mpii"
    source = Synthetic("mpii", train=8, val=8, image_size=(64, 64))
    write_mpii({split: source.persons(split) for split in ("train", "val")}, folder)
    asked = ["dataset=mpii", f"dataset.root={folder}", f"run_root={tmp_path}", f"out={tmp_path}"]
    run(*asked)
    good = json.loads((tmp_path / "check.json").read_text())
    assert {finding["severity"] for finding in good["dataset"]} == {"note"}
    assert good["machine"]
    images = sorted((folder / "images").iterdir())
    images[0].unlink()
    images[3].write_bytes(images[3].read_bytes()[:900])
    with pytest.raises(SystemExit) as status:
        run(*asked)
    assert status.value.code == 1
    found = json.loads((tmp_path / "check.json").read_text())["dataset"]
    errors = {f["check"]: f["records"] for f in found if f["severity"] == "error"}
    assert errors.keys() == {"missing images", "damaged images"}
    assert errors["missing images"] == [images[0].name]


@pytest.mark.parametrize("name", ["mpii", "coco", "lsp", "lspet"])
def test_an_empty_folder_is_a_finding_about_the_layout(tmp_path: Path, name: str) -> None:
    with pytest.raises(SystemExit):
        run(f"dataset={name}", f"dataset.root={tmp_path}", f"out={tmp_path}/report")
    [layout] = json.loads((tmp_path / "report/check.json").read_text())["dataset"]
    assert layout["check"] == "layout"
    assert str(tmp_path) in layout["problem"]
    assert "http" in layout["advice"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["action=look"],
        ["check.images=some"],
        ["dataset=of_checkpoint"],
        ["action=browse"],
        ["action=cache"],
        ["input_size=[64,50]"],
        ["dataset=synthetic", "browse.persons=0"],
    ],
)
def test_what_cannot_be_done_is_refused(wrong: list[str]) -> None:
    with pytest.raises(UsageError, match=wrong[-1].split("=")[0]):
        run(*wrong)


# --- browse and cache


def test_browse_writes_three_sheets(tmp_path: Path) -> None:
    small = ["input_size=[64,64]", "browse.persons=4", "browse.rows=2", "parts=p8"]
    text = run("action=browse", *SMALL, *small, f"out={tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} == {"crops.png", "flips.png", "targets.png"}
    assert str(tmp_path / "targets.png") in text


def test_a_cache_is_written_and_written_anew(tmp_path: Path) -> None:
    asked = ["action=cache", *SMALL, f"run_root={tmp_path}"]
    run(*asked)
    paths = sorted((tmp_path / "cache").glob("*.sqlite"))
    settings = {path.name.split("-")[0]: read_about(path)["settings"] for path in paths}
    assert {some.input_size for some in settings.values()} == {(32, 32)}
    assert settings["synthetic_train"].rotation == 45.0
    with closing(sqlite3.connect(paths[0])) as connection, connection:
        connection.execute("UPDATE crops SET crc32 = crc32 + 1 WHERE person = 1")
    written = paths[0].read_bytes()
    run(*asked)
    assert paths[0].read_bytes() == written
    run(*asked, "cache.rebuild=true")
    assert paths[0].read_bytes() != written


# --- the machine


def room(monkeypatch: pytest.MonkeyPatch, free: int, total: int = 100 * GIB) -> None:
    usage = SimpleNamespace(free=free, total=total)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)


@pytest.mark.parametrize(
    ("free", "severity"), [(50 * GIB, "note"), (2 * GIB, "warning"), (2**20, "error")]
)
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, severity: str) -> None:
    room(monkeypatch, free)
    assert machine.check_disk(tmp_path / "runs" / "of" / "tomorrow").severity == severity
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert machine.check_disk(tmp_path / "file" / "runs").severity == "error"


def test_little_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 0, total=64 * 2**20)
    [finding] = machine.check_memory(tmp_path)
    assert (finding.severity, "64 MiB" in finding.problem) == ("warning", True)
    room(monkeypatch, 0, total=8 * GIB)
    assert list(machine.check_memory(tmp_path)) == []


def test_compromised_release_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {finding.severity for finding in machine.check_libraries()} == {"note"}
    monkeypatch.setattr(machine, "_version", lambda _: "2.6.3")
    errors = [finding for finding in machine.check_libraries() if finding.severity == "error"]
    assert [finding.where for finding in errors] == ["lightning 2.6.3"]


def test_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert [finding.severity for finding in machine.check_devices()] == ["note", "warning"]


def test_list_of_commands_waits_for_no_library() -> None:
    """`pnfs --help` is the first thing a user types; torch alone takes seconds."""
    program = (
        "import sys; sys.argv = ['pnfs', '--help']\n"
        "from pnfs.commands.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'hydra', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "data" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"

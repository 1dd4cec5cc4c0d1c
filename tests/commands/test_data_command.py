"""`pnfs data`: checks and caches; exit status, files, refusals."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pnfs.commands import data
from pnfs.commands.configuration import UsageError
from pnfs.data.cache import read_about
from pnfs.data.synthetic import Synthetic
from tiny_runs import call
from written_datasets import write_mpii

SMALL = ("dataset=synthetic", "dataset.train=4", "dataset.val=2", "dataset.image_size=[64,64]",
         "input_size=[32,32]", "workers=0")  # fmt: skip


def run(*overrides: str) -> str:
    """What the command prints."""
    console = data.console = Console(width=200, record=True, file=io.StringIO())
    call("data", *overrides)
    return console.export_text()


def test_good_dataset_passes_and_bad_one_exits_with_1(tmp_path: Path) -> None:
    folder = tmp_path / "mpii"
    source = Synthetic("mpii", train=8, val=8, image_size=(64, 64))
    write_mpii({split: source.persons(split) for split in ("train", "val")}, folder)
    asked = ["dataset=mpii", f"dataset.root={folder}", "input_size=[64,64]", f"out={tmp_path}"]
    assert "errors: 0" in run(*asked)
    assert json.loads((tmp_path / "check.json").read_text()) == []
    assert (tmp_path / "crops.png").is_file()
    lost = min((folder / "images").iterdir())
    lost.unlink()
    with pytest.raises(SystemExit) as status:
        run(*asked)
    assert status.value.code == 1
    (found,) = json.loads((tmp_path / "check.json").read_text())
    assert (found["severity"], found["check"], found["records"]) == ("error", "missing images", [lost.name])


@pytest.mark.parametrize("name", ["mpii", "coco", "lsp", "lspet"])
def test_an_empty_folder_is_a_finding_about_the_layout(tmp_path: Path, name: str) -> None:
    with pytest.raises(SystemExit):
        run(f"dataset={name}", f"dataset.root={tmp_path}", f"out={tmp_path}/report")
    [layout] = json.loads((tmp_path / "report/check.json").read_text())
    assert layout["check"] == "layout"
    assert all(word in layout["problem"] for word in (str(tmp_path), "http"))


@pytest.mark.parametrize("wrong", ["action=look", "images=some", "dataset=of_checkpoint", "input_size=[64,50]"])
def test_what_cannot_be_done_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong.partition("=")[0]):
        run(wrong)


def test_a_cache_is_written_once(tmp_path: Path) -> None:
    asked = ["action=cache", *SMALL, f"run_root={tmp_path}"]
    run(*asked)
    paths = sorted((tmp_path / "cache").glob("*.sqlite"))
    settings = {path.name.split("-")[0]: read_about(path)["settings"] for path in paths}
    assert {some.input_size for some in settings.values()} == {(32, 32)}
    assert settings["synthetic_train"].rotation == 45.0
    written = paths[0].read_bytes()
    run(*asked)
    assert paths[0].read_bytes() == written

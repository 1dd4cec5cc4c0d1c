"""`pnfs data`: each fault is found, by its own check, nothing in good data; exit status, files, caches."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import scipy.io
from rich.console import Console

from pnfs.commands import data
from pnfs.commands.configuration import UsageError
from pnfs.data.cache import read_about
from pnfs.data.check import Finding, faults, inspect_dataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.mpii import MPII
from pnfs.data.synthetic import Synthetic
from tiny_runs import call
from written_datasets import write_coco, write_mpii


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    for name, write in (("mpii", write_mpii), ("coco", write_coco)):
        drawn = Synthetic(name, train=16, val=12, image_size=(64, 64), seed=3, truncated=0.0)
        write({split: drawn.persons(split) for split in ("train", "val")}, root / name, image_format="jpg")
    return root


@pytest.fixture
def mpii(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported / "mpii", tmp_path / "mpii"))


def inspected(folder: Path, kind: type = MPII, **options) -> dict[str, Finding]:
    return {f.check: f for f in inspect_dataset(kind(folder, check_images=False), **options)}


def test_nothing_is_found_in_good_data(exported: Path) -> None:
    for name, kind in (("mpii", MPII), ("coco", COCO)):
        assert inspected(exported / name, kind) == {}
        assert inspect_dataset(Synthetic(name, train=150, val=40, image_size=(64, 64), truncated=0.3)) == []


def test_labels_are_compared_with_the_evaluation_file(mpii: Path) -> None:
    path = mpii / "annot/gt_valid.mat"
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    # Another pixel base.
    scipy.io.savemat(path, content | {"pos_gt_src": content["pos_gt_src"] + 1})
    (found,) = inspected(mpii).values()
    assert (found.check, found.severity, len(found.records)) == ("head sizes", "error", 12)


def test_faults_of_images_and_records_are_found_together(mpii: Path) -> None:
    paths = sorted((mpii / "images").glob("train_*"))
    paths[2].write_bytes(paths[2].read_bytes()[:-300])
    paths[5].unlink()
    path = mpii / "annot/train.json"
    shared = json.loads((mpii / "annot/valid.json").read_text())[7]
    records = json.loads(path.read_text())
    path.write_text(json.dumps([*records, records[4], shared]))
    found = inspected(mpii)
    assert {name: f.severity for name, f in found.items()} == {
        "missing images": "error", "damaged images": "error", "duplicate records": "warning",
        "persons in two splits": "warning",
    }  # fmt: skip
    assert found["missing images"].records == (paths[5].name,)
    (record,) = found["damaged images"].records
    assert paths[2].name in record
    assert found["duplicate records"].records == ("train/00016 = train/00004",)
    assert found["persons in two splits"].records == ("val/00007",)
    assert "damaged images" not in inspected(mpii, images=False)
    # Damaged annotations do not hide the rest.
    path.write_text(path.read_text()[:500])
    (mpii / "images/val_000000000000.jpg").unlink()
    found = inspected(mpii)
    assert "train.json" in found["annotation files"].problem
    assert found["missing images"].records == ("val_000000000000.jpg",)


def test_resized_images_are_found(exported: Path, tmp_path: Path) -> None:
    coco = Path(shutil.copytree(exported / "coco", tmp_path / "coco"))
    for path in (coco / "images/val2017").iterdir():
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (32, 32)))
    found = inspected(coco, COCO)
    assert len(found["image sizes"].records) == 12
    assert "(32, 32), not (64, 64)" in found["image sizes"].problem
    assert found["joints outside images"].severity == "warning"


def test_boxes_elsewhere_are_found() -> None:
    persons = Synthetic(train=20, unlabelled=0.0, truncated=0.0).persons("train")
    center = persons.center.copy()
    center[3] += 400
    assert [f.check for f in faults(replace(persons, center=center), {}, {})] == ["person boxes"]


# --- the command

SMALL = ("dataset=synthetic", "dataset.train=4", "dataset.val=2", "dataset.image_size=[64,64]",
         "input_size=[32,32]", "workers=0")  # fmt: skip


def run(*overrides: str) -> str:
    """What the command prints."""
    console = data.console = Console(width=200, record=True, file=io.StringIO())
    call("data", *overrides)
    return console.export_text()


def test_good_dataset_passes_and_bad_one_exits_with_1(mpii: Path, tmp_path: Path) -> None:
    asked = ["dataset=mpii", f"dataset.root={mpii}", "input_size=[64,64]", f"out={tmp_path}"]
    assert "errors: 0" in run(*asked)
    assert json.loads((tmp_path / "check.json").read_text()) == []
    assert (tmp_path / "crops.png").is_file()
    lost = min((mpii / "images").iterdir())
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
    run(*asked, "cache.unbiased=true")
    new = {*(tmp_path / "cache").glob("*.sqlite")} - {*paths}
    assert [read_about(path)["settings"].unbiased for path in new] == [True, True]

"""`pnfs doctor` and `pnfs browse` as commands: exit status, files, and what is printed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console

from pnfs.commands import browse, doctor
from pnfs.commands.configuration import UsageError, configuration_folder
from pnfs.data.synthetic import Synthetic
from written_datasets import write_mpii


def composed(command: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(configuration_folder())):
        return compose(command, list(overrides))


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(width=200, record=True, quiet=False, file=None)
    monkeypatch.setattr(doctor, "console", console)
    monkeypatch.setattr(browse, "console", console)
    return console


@pytest.fixture
def mpii(tmp_path: Path) -> Path:
    source = Synthetic("mpii", train=8, val=8, image_size=(64, 64))
    write_mpii({split: source.persons(split) for split in ("train", "val")}, tmp_path / "mpii")
    return tmp_path / "mpii"


def test_machine_alone(tmp_path: Path, printed: Console) -> None:
    doctor.run(composed("doctor", f"run_root={tmp_path}/runs"))
    text = printed.export_text()
    assert "This machine" in text
    assert "Dataset" not in text
    assert "errors: 0" in text
    assert list(tmp_path.iterdir()) == []


def test_good_dataset_passes_and_bad_one_exits_with_1(
    tmp_path: Path, mpii: Path, printed: Console
) -> None:
    asked = ["dataset=mpii", f"dataset.root={mpii}", f"run_root={tmp_path}", "workers=1"]
    doctor.run(composed("doctor", *asked, f"out={tmp_path}/good"))
    good = json.loads((tmp_path / "good/doctor.json").read_text())
    assert {finding["severity"] for finding in good["dataset"]} == {"note"}
    assert good["machine"]

    images = sorted((mpii / "images").iterdir())
    images[0].unlink()
    images[3].write_bytes(images[3].read_bytes()[:900])
    with pytest.raises(SystemExit) as exit_status:
        doctor.run(composed("doctor", *asked, f"out={tmp_path}/bad"))
    assert exit_status.value.code == 1
    found = json.loads((tmp_path / "bad/doctor.json").read_text())["dataset"]
    assert [f["check"] for f in found if f["severity"] == "error"] == [
        "missing images",
        "damaged images",
    ]
    text = printed.export_text()
    assert images[0].name in text
    assert images[3].name in text


@pytest.mark.parametrize(
    ("name", "needed", "obtained"),
    [
        ("mpii", "annot/gt_valid.mat", "human-pose.mpi-inf.mpg.de"),
        ("coco", "annotations/person_keypoints_val2017.json", "cocodataset.org"),
        ("lsp", "joints.mat", "sam.johnson.io/research/lsp.html"),
        ("lspet", "joints.mat", "sam.johnson.io/research/lspet.html"),
    ],
)
def test_empty_folder_says_where_the_data_is_obtained(
    tmp_path: Path, printed: Console, name: str, needed: str, obtained: str
) -> None:
    with pytest.raises(SystemExit) as exit_status:
        doctor.run(
            composed(
                "doctor", f"dataset={name}", f"dataset.root={tmp_path}", f"out={tmp_path}/report"
            )
        )
    assert exit_status.value.code == 1
    [layout] = json.loads((tmp_path / "report/doctor.json").read_text())["dataset"]
    assert layout["check"] == "layout"
    assert needed in layout["problem"]
    assert obtained in layout["advice"]


def test_doctor_refuses_what_it_cannot_do(printed: Console) -> None:
    with pytest.raises(UsageError, match="images must be"):
        doctor.run(composed("doctor", "images=some"))
    with pytest.raises(UsageError, match="dataset by name"):
        doctor.run(composed("doctor", "dataset=of_checkpoint"))


def test_browse_writes_three_sheets(tmp_path: Path, printed: Console) -> None:
    small = ["dataset.train=6", "dataset.image_size=[64,64]", "persons=4", "rows=2"]
    browse.run(composed("browse", *small, "input_size=[64,64]", "parts=p8", f"out={tmp_path}"))
    assert {path.name for path in tmp_path.iterdir()} == {"crops.png", "flips.png", "targets.png"}
    text = printed.export_text()
    assert str(tmp_path / "targets.png") in text.replace("\n", "")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("input_size=[64,50]", "multiples of 32"),
        ("persons=0", "persons must be at least 1"),
        ("dataset=of_checkpoint", "dataset by name"),
    ],
)
def test_browse_refuses_what_it_cannot_show(override: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        browse.run(composed("browse", override))


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
    assert "doctor" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"

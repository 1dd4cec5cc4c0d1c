"""`pnfs reproduce`: failures, kills, and tables that do not depend on either."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from pnfs.commands import planning, reproduce
from pnfs.commands.configuration import (
    UsageError,
    build_source,
    configuration_folder,
    plain,
)
from pnfs.data.export import write_mpii
from pnfs.data.synthetic import Synthetic
from pnfs.reproduce.targets import read_target
from pnfs.runs.finding import find_runs
from pnfs.runs.identity import read_digests, run_folder, run_identity
from pnfs.runs.record import write_result

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from pnfs.commands.main import main; main()"]
TARGET = """
title: Two rows
tests: Does it work?
source: nothing
kind: loss_curves
overrides: ["input_size=[32,32]", model.fabrics.channels=2]
rows:
  - label: good
    overrides: [backbone=fabric, backbone.fabrics.first_layers=3, backbone.fabrics.channels=2]
    seeds: [0, 1]
  - {label: bad, overrides: [backbone.weights=absent.pth]}
"""


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    folder = tmp_path / "experiments"
    (folder / "two").mkdir(parents=True)
    (folder / "two" / "target.yaml").write_text(TARGET)
    (folder / "profiles.yaml").write_text("smoke: small.\n")
    return folder


def start(experiments: Path, root: Path, *more: str) -> subprocess.Popen[str]:
    arguments = ["target=two", "profile=smoke", f"experiments={experiments}", f"run_root={root}"]
    return subprocess.Popen(
        [*COMMAND, "reproduce", *arguments, "epochs=3", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=experiments,
    )


def scores(experiments: Path) -> list[dict[str, str]]:
    """The table without what depends on the time that it took."""
    path = experiments / "two" / "results" / "smoke" / "table.csv"
    rows = list(csv.DictReader(path.open()))
    return [{k: v for k, v in row.items() if k != "search_device_days"} for row in rows]


def second_run_has_a_checkpoint(root: Path) -> bool:
    finished = {path.parent for path in root.glob("*/*/result.json")}
    begun = {path.parents[1] for path in root.glob("*/*/checkpoints/last.ckpt")}
    return bool(finished) and bool(begun - finished)


@pytest.mark.slow
def test_killed_in_the_middle_ends_as_if_it_had_not_been(experiments: Path, tmp_path: Path) -> None:
    whole = start(experiments, tmp_path / "whole")
    output, _ = whole.communicate()
    # One row cannot be trained: the others are, and the exit status tells.
    assert whole.returncode == 1, output
    assert "failed: bad, seed 0" in output
    assert "finished: good, seed 1" in output
    expected = scores(experiments)
    assert [row["seeds_finished"] for row in expected] == ["2", "0"]
    assert "failed" in expected[1]["missing"]
    assert "absent.pth" in expected[1]["missing"]
    # Without transposed convolutions both ways of counting agree.
    assert float(expected[0]["macs_as_published"]) == pytest.approx(
        float(expected[0]["macs"]) / 2**30 * 1e9, abs=1
    )

    root = tmp_path / "killed"
    first = start(experiments, root)
    deadline = time.monotonic() + 300
    # The first run is finished; the second has a checkpoint, and is in its second or third epoch.
    while not second_run_has_a_checkpoint(root) and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    statuses = sorted(run.status for run in find_runs(root))
    assert statuses == ["finished", "interrupted"]
    kept = {path: path.stat().st_mtime for path in root.glob("*/*/result.json")}

    output, _ = start(experiments, root).communicate()
    assert "1 runs finished before, 2 to do" in output
    assert {path: path.stat().st_mtime for path in kept} == kept
    assert any("resuming after epoch" in log.read_text() for log in root.glob("*/*/train.log"))
    assert scores(experiments) == expected

    again = start(experiments, root, "train=false")
    assert again.communicate()
    assert again.returncode == 0
    assert scores(experiments) == expected


# --- what is planned, without training


def composed_as_train_does(overrides: tuple[str, ...]) -> Path:
    with initialize_config_dir(version_base="1.3", config_dir=str(configuration_folder())):
        config = compose("train", list(overrides))
    settings = plain(config)
    return run_folder(settings, read_digests(build_source(settings["dataset"])))


def test_run_is_found_by_composing_what_train_is_given() -> None:
    target = read_target(ROOT / "experiments", "table3", "smoke")
    planned = reproduce.plan(target, ["run_root=elsewhere"], None)
    assert [run.row.label for run in planned] == ["P=1", "P=3", "P=5", "P=8"]
    for run in planned[:2]:
        assert run.folder == composed_as_train_does(run.overrides)
    assert len({run.folder for run in planned}) == 4


def test_tables_share_the_runs_that_are_the_same() -> None:
    def folder(name: str, label: str) -> Path | None:
        target = read_target(ROOT / "experiments", name, "smoke")
        (run,) = [r for r in reproduce.plan(target, [], None) if r.row.label == label]
        return run.folder

    shared = {folder("table2", "synchronous"), folder("table3", "P=3"), folder("table6", "d=8")}
    assert len(shared) == 1
    assert folder("table5", "HRNet-W32") == folder("table6", "HRNet-W32")


@pytest.mark.parametrize("profile", ["smoke", "lspet", "paper"])
def test_figures_share_the_runs_of_tables(profile: str) -> None:
    def folders(name: str) -> list[Path | None]:
        target = read_target(ROOT / "experiments", name, profile)
        return [run.folder for run in reproduce.plan(target, [], [0])]

    # Figure 6 shows the losses of d=1, d=8 and of the baselines of Table VI, Figure 7 Table IV's model.
    d1, _, d8, _, *baselines = folders("table6")
    assert folders("figure6") == [d1, d8, *baselines]
    assert None not in folders("figure6")
    assert folders("figure7_8")[0] == folders("table4")[0]


@pytest.mark.parametrize("profile", ["smoke", "lspet", "paper"])
@pytest.mark.parametrize("name", ["table2", "table4", "table5", "table6", "table7", "figure5"])
def test_every_shipped_row_composes(name: str, profile: str) -> None:
    target = read_target(ROOT / "experiments", name, profile)
    problems = {run.row.label: run.problem for run in reproduce.plan(target, [], [0])}
    assert set(problems.values()) == {""}, problems


@pytest.fixture
def mpii_rows(experiments: Path, tmp_path: Path) -> list[str]:
    """What `plan` is given to have rows on a small MPII."""
    people = Synthetic(train=4, val=4, image_size=(48, 48))
    write_mpii({s: people.persons(s) for s in ("train", "val")}, tmp_path / "mpii")
    return ["dataset=mpii", f"dataset.root={tmp_path / 'mpii'}", f"run_root={tmp_path / 'runs'}"]


def planned_good(experiments: Path, overrides: list[str]) -> Any:
    target = read_target(experiments, "two", "smoke")
    # Sizes of the drawn people, which this profile sets, are no keys of MPII.
    drawn = ["~dataset.train", "~dataset.val", "~dataset.image_size"]
    return reproduce.plan(target, [*overrides, *drawn], [0])[0]


def test_tables_find_their_runs_without_the_dataset(
    experiments: Path, tmp_path: Path, mpii_rows: list[str]
) -> None:
    before = planned_good(experiments, mpii_rows)
    assert before.problem == ""
    persons = read_digests(build_source(before.settings["dataset"]))
    identity = run_identity(before.settings, persons)
    write_result(before.folder, {"config": before.settings, "identity": identity})
    (tmp_path / "mpii").rename(tmp_path / "gone")
    assert planned_good(experiments, mpii_rows).folder == before.folder
    # Moved data are the same data.
    there = [mpii_rows[0], f"dataset.root={tmp_path / 'gone'}", mpii_rows[2]]
    assert planned_good(experiments, there).folder == before.folder
    # Two runs that only the data tell apart: none of them is taken for the one that is meant.
    other = run_identity(before.settings, persons | {"val": "another"})
    write_result(
        before.folder.with_name("0a0b0c0d"), {"config": before.settings, "identity": other}
    )
    ambiguous = planned_good(experiments, mpii_rows)
    assert ambiguous.folder is None
    assert "0a0b0c0d" in ambiguous.problem
    assert "dataset.root" in ambiguous.problem


def test_rows_stay_different_whatever_is_passed_to_all() -> None:
    target = read_target(ROOT / "experiments", "table3", "smoke")
    planned = reproduce.plan(target, ["parts=p5", "epochs=7"], [3, 4])
    by_label = {(run.row.label, run.seed): run.settings for run in planned}
    assert len(by_label) == 8
    assert next(iter(by_label["P=8", 3]["model"]["parts"])) == "head_shoulder"
    assert len(by_label["P=8", 3]["model"]["parts"]) == 8
    assert {settings["epochs"] for settings in by_label.values()} == {7}
    assert by_label["P=1", 4]["seed"] == 4


# --- a folder for each dataset

TWO_DATASETS = """
title: Rows on two datasets
tests: Which folder does a row read?
source: nothing
kind: table
overrides: [backbone=fabric, "input_size=[32,32]"]
rows:
  - {label: people, overrides: [dataset=mpii]}
  - {label: crowds, overrides: [dataset=coco]}
  - {label: sports, overrides: [dataset=lspet]}
"""


def folders(experiments: Path, overrides: list[str], **roots: str | None) -> dict[str, str]:
    (experiments / "two" / "target.yaml").write_text(TWO_DATASETS)
    target = read_target(experiments, "two", "smoke")
    planned = reproduce.plan(target, overrides, None, roots)
    # Every run is what `pnfs train` makes of its overrides.
    for run in planned:
        assert run.problem == ""
        with initialize_config_dir(version_base="1.3", config_dir=str(configuration_folder())):
            config = compose("train", list(run.overrides))
        assert config.dataset.root == run.settings["dataset"]["root"]
    return {run.row.label: run.settings["dataset"]["root"] for run in planned}


@pytest.fixture
def photographs(experiments: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Experiments whose profile overrides no key of one dataset alone."""
    monkeypatch.setattr(
        "pnfs.commands.planning.common_overrides", lambda target, overrides: list(target.overrides)
    )
    return experiments


def test_each_dataset_has_a_root_of_its_own(photographs: Path) -> None:
    odd = "/data/it's a \\'folder\\' = {x}, [y]\\"
    assert folders(photographs, [], mpii="/data/mpii", coco=odd, lspet=None) == {
        "people": "/data/mpii",
        "crowds": odd,
        "sports": "data/lspet",
    }


def refusal(experiments: Path, tmp_path: Path, overrides: list[str], **roots: str | None) -> str:
    (experiments / "two" / "target.yaml").write_text(TWO_DATASETS)
    with pytest.raises(UsageError) as caught:
        reproduce.reproduce(
            targets="two", profile="smoke", experiments=experiments,
            overrides=[f"run_root={tmp_path}", *overrides], roots=roots, train=False,
        )  # fmt: skip
    return str(caught.value)


def test_one_root_for_several_datasets_is_refused(photographs: Path, tmp_path: Path) -> None:
    found = refusal(photographs, tmp_path, ["dataset.root=/data"])
    for name in ("roots.mpii", "roots.coco", "roots.lspet", "dataset.root"):
        assert name in found
    found = refusal(photographs, tmp_path, ["dataset.root=/data"], mpii="/other")
    assert "dataset.root" in found
    assert "roots.mpii" in found
    assert "roots.lsp " in refusal(photographs, tmp_path, [], lsp="/data/lsp")


@pytest.mark.parametrize("name", ["table7", "figure7_8"])
def test_coco_rows_of_shipped_targets_read_cocos_folder(name: str) -> None:
    target = read_target(ROOT / "experiments", name, "paper")
    planned = reproduce.plan(target, [], [0], {"mpii": "/m", "coco": "/c"})
    for run in planned:
        coco = run.settings["dataset"]["_target_"].endswith(".COCO")
        assert run.settings["dataset"]["root"] == ("/c" if coco else "/m")
    assert any(run.settings["dataset"]["root"] == "/c" for run in planned)


def test_one_root_goes_to_all_rows_of_one_dataset() -> None:
    target = read_target(ROOT / "experiments", "table3", "lspet")
    planned = reproduce.plan(target, ["dataset.root=/data"], [0])
    assert {run.settings["dataset"]["root"] for run in planned} == {"/data"}
    planning.check_roots(planned, ["dataset.root=/data"], {"mpii": None})
    same = reproduce.plan(target, [], [0], {"lspet": "/data", "mpii": None})
    assert [run.folder for run in same] == [run.folder for run in planned]


def test_keys_of_the_command_are_not_passed_on() -> None:
    given = [
        "target=table3",
        "profile=smoke",
        "jobs=2",
        "roots.mpii=/m",
        "+roots.mine=/n",
        "epochs=3",
        "+trainer.fast_dev_run=true",
    ]
    assert reproduce.passed_on(given) == ["epochs=3", "+trainer.fast_dev_run=true"]
    for refused in ("seed=1", "initial=x"):
        with pytest.raises(UsageError, match=refused.split("=")[0]):
            reproduce.passed_on([refused])

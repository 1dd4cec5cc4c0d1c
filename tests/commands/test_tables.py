"""`pnfs tables` and the rows that it shows: files of conf/experiment, swept by Hydra."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from pnfs.commands.configuration import UsageError, packaged_folder
from pnfs.commands.keys import checked
from pnfs.commands.tables import for_the_rows, row_settings
from pnfs.runs.identity import run_hash

CONF = packaged_folder("conf")
ROWS = sorted(
    path.relative_to(CONF / "experiment").with_suffix("")
    for folder in ("table*", "figure*")
    for path in CONF.glob(f"experiment/{folder}/*.yaml")
)


def settings_of(row: str, *overrides: str) -> dict[str, Any]:
    table, _, name = row.partition("/")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return row_settings(table, overrides, name, 0)


@pytest.mark.parametrize("row", map(str, ROWS))
def test_every_row_composes_without_a_key_that_nothing_reads(row: str) -> None:
    checked("train", OmegaConf.create(settings_of(row, "profile=smoke")))


@pytest.mark.parametrize("row", ["table3/p3", "table7/ours_1"])
def test_a_profile_applies_to_a_row(row: str) -> None:
    found = [settings_of(row, f"profile={name}") for name in ("paper", "lspet", "smoke")]
    paper, *others = (s["dataset"]["_target_"].rsplit(".", 1)[-1] for s in found)
    assert paper in ("MPII", "COCO")
    assert others == ["LSPET", "Synthetic"]
    assert [s["epochs"] for s in found] == [200, 20, 2]
    assert [s["input_size"] for s in found[1:]] == [[128, 128], [64, 64]]
    assert [s["name"] for s in found] == ["paper", "lspet", "smoke"]
    assert found[2]["backbone"]["weights"] == "none"


@pytest.mark.parametrize(
    "profile", ["paper", *(pytest.param(p, marks=pytest.mark.slow) for p in ("smoke", "lspet"))]
)
def test_tables_share_the_runs_that_are_the_same(profile: str) -> None:
    def shared(*rows: str) -> bool:
        return len({run_hash(settings_of(row, f"profile={profile}")) for row in rows}) == 1

    assert shared("table2/synchronous", "table3/p3", "table6/d8", "figure6/d8")
    assert shared("table5/hrnet", "table6/hrnet", "figure6/hrnet")
    assert shared("figure7_8/mpii", "table4/pnfs")
    assert shared("figure7_8/coco", "table7/ours_2")
    assert not shared("table3/p1", "table3/p3")


def test_datasets_and_weights_have_one_place_for_all_rows() -> None:
    given = ("data_root=/data", "pretrained.mobilenet_v2=/w.pth")
    assert settings_of("table3/p1", *given)["dataset"]["root"] == "/data/mpii"
    coco = settings_of("table7/ours_1", *given)
    assert (coco["dataset"]["root"], coco["dataset"]["boxes"]) == ("/data/coco", "detected")
    assert coco["model"]["backbone"]["weights"] == "/w.pth"
    assert settings_of("table6/hrnet", *given, "profile=lspet")["backbone"]["weights"] == "none"
    # Where they lie makes no other run.
    assert run_hash(settings_of("table3/p1", *given[:1])) == run_hash(settings_of("table3/p1"))


def test_keys_of_the_command_are_not_the_rows() -> None:
    given = [
        "target=table3",
        "profile=smoke",
        "out=x",
        "hydra/launcher=joblib",
        "+trainer.x=1",
        "epochs=3",
    ]
    assert for_the_rows(given) == ["+trainer.x=1", "epochs=3"]
    for refused in ("seed=1", "initial=x", "experiment=demo"):
        with pytest.raises(UsageError, match=refused.split("=")[0]):
            for_the_rows([refused])


@pytest.mark.slow
def test_swept_rows_are_in_the_table_and_the_failed_one_says_why(tmp_path: Path) -> None:
    tiny = ["profile=smoke", "dataset.train=8", "dataset.val=4", "epochs=1", "input_size=[32,32]",
            "model.fabrics.channels=2"]  # fmt: skip
    network = ["backbone=fabric", "backbone.fabrics.first_layers=3", "backbone.fabrics.channels=2"]

    def start(*arguments: str, status: int = 0) -> None:
        command = [sys.executable, "-c", "from pnfs.commands.main import main; main()", *arguments]
        done = subprocess.run([*command, *tiny], cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == status, done.stderr

    def table(*network: str) -> pd.DataFrame:
        start("tables", "target=table3", *network)
        return pd.read_csv(tmp_path / "experiments/table3/results/smoke/runs.csv")

    start("train", "--multirun", "experiment=glob(table3/p[13])", "seed=0,1", *network)
    found = table(*network).set_index(["row", "seed"])
    assert list(found["state"][["P=1", "P=3"]]) == ["finished"] * 4
    # Without transposed convolutions both ways of counting agree.
    assert found["macs_by_output"]["P=1", 0] == found["macs"]["P=1", 0]
    assert found["state"]["P=8", 0] == "not run"
    absent = "backbone.weights=absent.pth"
    start("train", "--multirun", "experiment=table3/p5", absent, status=1)
    assert "absent.pth" in str(table(absent).set_index("row")["state"]["P=5"])

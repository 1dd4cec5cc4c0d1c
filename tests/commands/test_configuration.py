"""Every choice and every row of the paper's tables composes, is explained, and says what the paper says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pnfs.commands import main
from pnfs.commands.configuration import UsageError, checked, packaged_folder
from pnfs.commands.launch import as_overrides
from pnfs.commands.runs import for_the_rows, row_settings
from pnfs.models import PAPER, POSENFS
from pnfs.runs.identity import run_hash
from tiny_runs import composed, untrained_run

CONF = packaged_folder("conf")
COMMANDS = tuple(main.COMMANDS)


def groups_of(command: str) -> list[str]:
    """Groups that a command's defaults list lets a user choose from."""
    defaults = yaml.safe_load((CONF / f"{command}.yaml").read_text())["defaults"]
    named = [group for entry in defaults if isinstance(entry, dict) for group in entry]
    groups = [group.removeprefix("optional ").lstrip("/") for group in named]
    return [group for group in groups if (CONF / group).is_dir()]


# Each choice once, in the first command that has its group.
CHOICES = {
    (group, path.stem): command
    for command in reversed(COMMANDS)
    for group in groups_of(command)
    for path in sorted((CONF / group).glob("*.yaml"))
    # The choice of another command's checkpoint, and one that reads a checkpoint.
    if (command, path.stem) not in (("train", "of_checkpoint"), ("train", "finetune"))
}


def test_every_group_belongs_to_a_command() -> None:
    # Launchers of sweeps are Hydra's own group.
    assert {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"} == {group for group, _ in CHOICES}
    assert len(CHOICES) > 40


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_choice_composes_and_fits_its_targets(group: str, choice: str) -> None:
    overrides, command = [f"{group}={choice}"], CHOICES[group, choice]
    if command in ("evaluate", "export", "import"):
        overrides.append("checkpoint=some.ckpt")
    if command == "tables":
        overrides.append("target=all")
    if choice.startswith("p3_random") and command != "data":
        overrides.append("skeleton=lsp")  # A control of the study, which is on LSP's joints.
    checked(command, composed(command, *overrides))


ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *ROOT.glob("docs/*.md"),
    ROOT / "experiments/README.md",
    *ROOT.glob("experiments/*/README.md"),
]
PRINTED = sorted(
    {
        line.partition(" #")[0].rstrip()
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        # Left out: what asks for files of the reader's, or for Hydra's list of rows.
        if line.startswith("pnfs ") and not re.search(r"--config-dir|glob\(", line)
    }
)


@pytest.mark.parametrize("line", PRINTED)
def test_printed_command_composes(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "1a2b3c4d" in line:  # As the pages call the reader's own run.
        untrained_run(tmp_path / "runs" / "train" / "1a2b3c4d")
    for name in ("photo.jpg", "walk.mp4"):
        (tmp_path / name).touch()
    _, command, *words = shlex.split(re.sub(r"<[^>]*>", "x", line))
    overrides = as_overrides(command, [word for word in words if word != "-m"])
    parsed = OverridesParser.create().parse_overrides(overrides)
    # The first job of a sweep.
    job = [f"{o.get_key_element()}={next(o.sweep_string_iterator())}" if o.is_sweep_override() else o.input_line
           for o in parsed]  # fmt: skip
    checked(command, composed(command, *map(str, job)))


def test_the_pages_print_commands() -> None:
    assert len(PRINTED) > 30
    assert {line.split()[1] for line in PRINTED} >= {"train", "predict", "evaluate", "export", "runs"}


# Part and operation names are the content of these groups, which the head of each file explains; recipes change
# keys that are explained where they are defined.
_GROUPS_OF_DATA = ("parts", "operations", "experiment")
FILES = [path for path in CONF.glob("*/*.yaml") if path.parent.name not in _GROUPS_OF_DATA]
FILES += [CONF / f"{name}.yaml" for name in ("base", *COMMANDS)]


def keys_of(path: Path) -> dict[str, bool]:
    """Key that holds a value -> whether a comment stands at it or above, or in a file that this one builds on.

    An interpolation is explained where it points.
    """
    text = path.read_text().partition("\nhydra:")[0]
    lines = text.splitlines()

    def explained(n: int) -> bool:
        if re.search(r"\s#", lines[n]) or (n and lines[n - 1].lstrip().startswith("#")):
            return True
        # The comment above a mapping speaks for its first key too.
        return bool(n) and re.fullmatch(r"\s*\w+:", lines[n - 1]) is not None and explained(n - 1)

    found: dict[str, bool] = {}
    for n, line in enumerate(lines):
        if key := re.match(r" *([a-z]\w*): +[^$\s]", line):
            found[key[1]] = found.get(key[1], True) and explained(n)
    for entry in yaml.safe_load(text).get("defaults", []):
        if isinstance(entry, str) and (sibling := path.parent / f"{entry}.yaml").is_file():
            found |= {key: True for key, is_explained in keys_of(sibling).items() if is_explained}
    return found


def test_every_key_is_explained_and_every_file_begins_with_what_it_is() -> None:
    left = {path: [key for key, explained in keys_of(path).items() if not explained] for path in FILES}
    assert {path: keys for path, keys in left.items() if keys} == {}
    assert sum(map(len, map(keys_of, FILES))) > 300
    assert [path for path in CONF.glob("**/*.yaml") if not path.read_text().startswith("# ")] == []


@pytest.mark.parametrize(
    ("choice", "rules", "loss"), [("paper", PAPER, ("parts", 1.0)), ("posenfs", POSENFS, ("joints", 0.5))]
)
def test_fabric_presets_equal_the_constants(choice: str, rules: object, loss: tuple[str, float]) -> None:
    config = composed("train", f"variant={choice}")
    assert instantiate(config.variant.rules) == instantiate(config.model.fabrics.rules) == rules
    built = instantiate(config.loss)
    assert (built.maps, built.factor) == loss


ROWS = sorted(
    path.relative_to(CONF / "experiment").with_suffix("").as_posix()
    for folder in ("table*", "figure*")
    for path in CONF.glob(f"experiment/{folder}/*.yaml")
)


def settings_of(row: str, *overrides: str) -> dict[str, Any]:
    table, _, name = row.partition("/")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return row_settings(table, overrides, name, 0)


@pytest.mark.parametrize("row", ROWS)
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
    own = ["target=table3", "profile=smoke", "out=x", "hydra/launcher=joblib"]
    assert for_the_rows([*own, "+trainer.x=1", "epochs=3"]) == ["+trainer.x=1", "epochs=3"]
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

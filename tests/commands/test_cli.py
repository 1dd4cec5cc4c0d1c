"""The command as users start it: another folder, another process, and mistakes on the way."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pnfs.commands.configuration import packaged_folder

CONF = packaged_folder("conf")
PNFS = Path(sys.executable).with_name("pnfs")

# Every call starts an interpreter and imports torch.
pytestmark = pytest.mark.slow


def pnfs(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `pnfs ARGUMENTS` in a folder, with these environment variables besides the present ones."""
    return subprocess.run(
        [str(PNFS), *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed call told its user; Python's and Hydra's internals are no such thing."""
    assert done.returncode not in (0, -9, -11)
    for internals in ("Traceback", 'File "', "Error in call to target", "HYDRA_FULL_ERROR"):
        assert internals not in done.stderr
    return done.stderr.strip()


def test_unknown_command_exits_with_2(tmp_path: Path) -> None:
    done = pnfs(tmp_path, "trian")
    assert done.returncode == 2
    assert "'trian'" in error_of(done)
    assert "usage: pnfs COMMAND" in done.stderr


def test_help_of_a_command_lists_all_choices(tmp_path: Path) -> None:
    done = pnfs(tmp_path, "train", "--help")
    assert done.returncode == 0
    listed = dict(re.findall(r"^(\w+): ([\w, ]+)$", done.stdout, re.MULTILINE))
    defaults = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    entries = [group for entry in defaults if isinstance(entry, dict) for group in entry]
    groups = [group for group in entries if not group.startswith(("override ", "optional "))]
    assert len(groups) > 10
    for group in groups:
        choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        assert listed[group].split(", ") == choices


def test_missing_dataset_is_one_clear_error(tmp_path: Path) -> None:
    done = pnfs(tmp_path, "train", "dataset=mpii", "dataset.root=no/such/folder")
    error = error_of(done)
    assert error.startswith("pnfs train: MPII: there is no folder no/such/folder")
    # Says where to get it, line by line, once.
    assert "annot/train.json" in error
    assert "\\n" not in error
    assert error.count("there is no folder") == 1
    # And where a relative folder was looked for.
    assert str(tmp_path / "no" / "such" / "folder") in error


def test_weights_that_cannot_be_downloaded_are_one_sentence(tmp_path: Path) -> None:
    names = ("http_proxy", "https_proxy", "HTTPS_PROXY")
    proxies = dict.fromkeys(names, "http://127.0.0.1:9") | {"no_proxy": "", "NO_PROXY": ""}
    home = str(tmp_path / "torch")
    done = pnfs(tmp_path, "cost", "backbone.weights=imagenet", TORCH_HOME=home, **proxies)
    sentence = error_of(done).splitlines()[-1]
    assert sentence.startswith("pnfs cost: ")
    assert "ImageNet" in sentence
    assert "backbone.weights=/" in sentence
    assert "backbone.weights=none" in sentence


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["train", "parts=p4"], ["parts/p4", "p8"]),
        # rich reads [text] as a style unless it is told not to.
        (["cost", "skeleton=panoptic"], ["panoptic: {part: [joint, ...], ...}"]),
        (["evaluate", "checkpoint=no/such.ckpt"], ["no/such.ckpt"]),
        (["show"], ["pnfs show: checkpoint"]),
        (
            ["cost", "backbone.weights=none", "+operations.mine={_target_: absent.Gate}"],
            ["absent", "PYTHONPATH"],
        ),
    ],
)
def test_mistake_is_told_without_internals(
    tmp_path: Path, given: list[str], named: list[str]
) -> None:
    error = error_of(pnfs(tmp_path, *given))
    assert all(word in error for word in named)
    if "p4" not in str(given):
        assert len(error.splitlines()) == 1


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

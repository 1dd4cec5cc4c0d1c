"""Imports point one way: body < models, codec, evaluation < data < training < search, runs < commands; what the
documentation names is there."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "pnfs"

_BELOW_DATA = {"body", "models", "codec", "evaluation"}
_BELOW_TRAINING = _BELOW_DATA | {"data"}
_BELOW_RUNS = _BELOW_TRAINING | {"training"}
_BELOW_COMMANDS = _BELOW_RUNS | {"runs", "viz", "inference", "export", "reproduce", "importing"}

ALLOWED = {
    "body": set(),
    "models": {"body"},
    "codec": {"body"},
    "evaluation": {"body", "codec"},
    # Data sources build their benchmark's metric.
    "data": _BELOW_DATA,
    "training": _BELOW_TRAINING,
    # Strategies are callbacks of training; training knows none of them.
    "search": _BELOW_RUNS,
    # What a run is; whoever trains or searches does not know it.
    "runs": _BELOW_RUNS,
    # Other people's checkpoints; the models do not know them.
    "importing": {"body", "models"},
    "viz": _BELOW_TRAINING,
    "export": {"body", "models", "codec", "data"},
    "inference": _BELOW_RUNS | {"viz", "export"},
    "reproduce": _BELOW_RUNS | {"runs", "viz"},
    "commands": _BELOW_COMMANDS | {"search", "pnfs"},
    # The package itself: `pnfs.load`.
    "pnfs": {"codec", "inference", "export"},
}


@pytest.fixture(scope="module")
def rooms(script) -> ModuleType:
    return script("tools/rooms.py")


def test_rooms_keep_the_order(rooms: ModuleType) -> None:
    graph = rooms.import_graph(SOURCE)
    assert set(graph) == set(ALLOWED)
    assert [(room, other) for room, other in graph.edges if other not in ALLOWED[room]] == []
    assert rooms.storeys(graph)[-1] == ["commands"]  # A circle is an error here.
    # `make rooms` writes it anew.
    assert (ROOT / "docs" / "rooms.md").read_text() == rooms.described(graph)


def test_imports_are_absolute_and_only_commands_know_the_configuration() -> None:
    for path in sorted(SOURCE.glob("*/**/*.py")):
        text = path.read_text()
        assert not re.search(r"^\s*from \.", text, re.MULTILINE), path
        if path.relative_to(SOURCE).parts[0] != "commands":
            assert not re.search(r"^\s*(import|from) (hydra|omegaconf)", text, re.MULTILINE), path
            strings = {n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)}
            assert not any("conf" in str(s).split("/")[:-1] for s in strings if " " not in str(s)), path


MAIN = "sys.argv = ['pnfs', *{}]\nfrom pnfs.commands.main import main\ntry: main()\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import pnfs", "torch hydra numpy pnfs.commands"),
        ("import pnfs.viz.runs_page", "torch"),
        # The first thing that a user types; torch alone takes seconds.
        (MAIN.format(["--help"]), "torch hydra lightning numpy"),
        (MAIN.format(["runs", "run_root=."]), "torch lightning matplotlib pandas scipy"),
    ],
)
def test_nobody_waits_for_what_is_not_needed(code: str, heavy: str, tmp_path: Path) -> None:
    code = f"import sys\n{code}\nprint(*{set(heavy.split())} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


PAGES = [ROOT / "README.md", ROOT / "experiments/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_and_linked_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"`((?:pnfs|src|conf|tests|web|tools|experiments)/[\w/]+\.\w+)`", text)
    places = [ROOT / "src" / f if f.startswith("pnfs/") else ROOT / f for f in files]
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    missing = [path for path in [*places, *(page.parent / link for link in links)] if not path.exists()]
    assert not missing


def test_page_of_choices_names_every_choice() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs/choices.md").read_text(), re.MULTILINE)
    assert len(rows) > 15
    for group, text in rows:
        choices = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} - {"of_checkpoint"}
        named = set(re.findall(r"`(\w+)`", text))
        missing = {name for name in choices - named if not name.startswith("p3_random")}
        assert not missing, f"{group}: {missing}"

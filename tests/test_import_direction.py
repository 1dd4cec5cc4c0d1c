"""Imports point one way: body < models, codec, evaluation < data < training < search, runs < commands."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import pnfs

SOURCE = Path(pnfs.__file__).parent

_BELOW_DATA = {"body", "models", "codec", "evaluation"}
_BELOW_TRAINING = _BELOW_DATA | {"data"}
_BELOW_RUNS = _BELOW_TRAINING | {"training"}

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
    "commands": _BELOW_RUNS
    | {"search", "runs", "viz", "inference", "export", "reproduce", "importing"},
}
CONFIGURATION_LIBRARIES = {"hydra", "omegaconf"}
CONFIGURATION_FOLDER = "conf"


def imported_modules(tree: ast.Module, package: str) -> list[str]:
    """Dotted names of everything a module imports, wherever in the module it does.

    Args:
        tree: The module.
        package: Dotted name of the package that holds it, which relative imports start from.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from pnfs import viz` names a package as much as `import pnfs.viz` does.
            found += [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            found += [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
    return found


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def paths_into_configuration(tree: ast.Module) -> list[str]:
    """Strings that point into the configuration folder; docstrings may mention it."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in prose
        and CONFIGURATION_FOLDER in node.value.split("/")
    ]


def violations(source: str, module: str) -> list[str]:
    """What is wrong with the imports of the module with this dotted name."""
    tree = ast.parse(source)
    package = module.split(".")[1]
    if package not in ALLOWED:
        return [f"{module}: the order of imports does not know the package {package}"]
    wrong = []
    for imported in imported_modules(tree, module.rpartition(".")[0]):
        top, _, rest = imported.partition(".")
        target = rest.split(".")[0]
        if top in CONFIGURATION_LIBRARIES and package != "commands":
            wrong.append(f"{module} imports {top}; only commands may")
        elif top == "pnfs" and target in ALLOWED and target not in ALLOWED[package] | {package}:
            wrong.append(f"{module} imports {imported}; {package} must not know {target}")
    if package != "commands":
        wrong += [f"{module} reads {path}" for path in paths_into_configuration(tree)]
    return wrong


def _module_name(path: Path) -> str:
    # `x/__init__.py` counts as `x.__init__`, so that its package is the text before the last dot.
    return ".".join(["pnfs", *path.relative_to(SOURCE).with_suffix("").parts])


@pytest.mark.parametrize(
    "path", sorted(SOURCE.glob("*/**/*.py")), ids=lambda path: str(path.relative_to(SOURCE))
)
def test_module_keeps_the_order(path: Path) -> None:
    assert violations(path.read_text(), _module_name(path)) == []


def test_no_room_may_import_one_that_may_import_it() -> None:
    order = graphlib.TopologicalSorter(ALLOWED)
    assert list(order.static_order())[-1] == "commands"  # A circle is an error here.


def test_package_itself_knows_no_command() -> None:
    names = imported_modules(ast.parse((SOURCE / "__init__.py").read_text()), "pnfs")
    assert not [name for name in names if name.startswith("pnfs.commands")]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, pnfs; print(*{'torch', 'hydra', 'numpy', 'pnfs.commands'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_two_packages_know_each_other() -> None:
    pairs = [(a, b) for a in ALLOWED for b in ALLOWED[a] if a in ALLOWED[b]]
    assert pairs == []


def test_every_package_has_a_place_in_the_order() -> None:
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} == set(ALLOWED)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pnfs.body.skeleton", "import pnfs.models.cell"),
        ("pnfs.models.cell", "from pnfs.codec.decode import decode"),
        ("pnfs.models.cell", "from pnfs import viz"),
        ("pnfs.data.datasets.mpii", "def f():\n    from pnfs.training.module import PoseModule"),
        ("pnfs.data.datasets.mpii", "if TYPE_CHECKING:\n    import pnfs.search as s"),
        ("pnfs.training.module", "from pnfs.search import Random"),
        ("pnfs.search.random", "from pnfs.viz.curves import plot_curves"),
        ("pnfs.training.checkpoints", "from pnfs.runs.identity import run_identity"),
        ("pnfs.data.module", "from pnfs.runs import record"),
        ("pnfs.runs.state", "from pnfs.commands.train import run"),
        ("pnfs.viz.curves", "from ..training import records"),
        ("pnfs.models.backbones.fabric", "from ...viz.poses import save_image"),
        ("pnfs.models.backbones.__init__", "from ... import commands"),
        ("pnfs.evaluation.pck", "from pnfs.data.persons import UNLABELLED"),
        (
            "pnfs.evaluation.errors",
            "if TYPE_CHECKING:\n    from pnfs.data.predictions import Matches",
        ),
        ("pnfs.evaluation.pck", "importlib.import_module('pnfs.search.random')"),
        ("pnfs.training.module", "from hydra.utils import instantiate"),
        ("pnfs.search.random", "import omegaconf"),
        ("pnfs.runs.record", "folder = Path('conf') / 'train.yaml'"),
        ("pnfs.runs.record", "open('../conf/train.yaml')"),
        ("pnfs.newcomer.module", "import json"),
    ],
)
def test_checker_catches(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pnfs.data.datasets.mpii", "from pnfs.evaluation.pck import PCK"),
        ("pnfs.search.random", "from pnfs.training.module import PoseModule"),
        ("pnfs.runs.identity", "from pnfs.data.persons import Persons"),
        ("pnfs.models.backbones.fabric", "from ..cell import Cell\nfrom .. import lanes"),
        ("pnfs.commands.train", "import hydra\nfrom pnfs.viz.poses import pose_sheet\nx = 'conf'"),
        ("pnfs.runs.record", '"""The choices in conf/ name us."""\nimport conf_reader'),
    ],
)
def test_checker_lets_pass(module: str, source: str) -> None:
    assert violations(source, module) == []

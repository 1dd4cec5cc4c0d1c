"""Recorded fixtures, found wherever they are kept."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pnfs.commands.configuration import register_resolvers
from train_server import TrainServer


def _fixtures_dir() -> Path:
    named = os.environ.get("PNFS_FIXTURES")
    folder = Path(named) if named else Path(__file__).parent / "fixtures"
    if not folder.is_dir():
        raise pytest.UsageError(f"PNFS_FIXTURES: there is no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The folder of recorded fixtures: PNFS_FIXTURES, or the one beside this file."""
    return _fixtures_dir()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`@pytest.mark.fixtures("decode_*.npz")`: one test for each file, as `fixture_file`."""
    marker = metafunc.definition.get_closest_marker("fixtures")
    if marker is not None and "fixture_file" in metafunc.fixturenames:
        files: list[Any] = sorted(path for pattern in marker.args for path in _fixtures_dir().glob(pattern))
        if not files and "PNFS_FIXTURES" in os.environ:  # In our own folder that is an error.
            absent = pytest.mark.skip(reason=f"PNFS_FIXTURES has no {' or '.join(marker.args)}")
            files = [pytest.param(None, marks=absent, id="absent")]
        metafunc.parametrize("fixture_file", files, ids=lambda path: path.name)


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Loads a file of the repository that is no part of the package, such as "tools/rooms.py"."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).parents[1] / name
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(autouse=True, scope="session")
def resolvers() -> None:
    """Tests compose configurations without the command that makes their interpolations known."""
    register_resolvers()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainServer]:
    empty: Path = tmp_path_factory.mktemp("torch")  # No weights have been downloaded.
    server = TrainServer(TORCH_HOME=str(empty))
    yield server
    server.close()

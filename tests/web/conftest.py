"""What the tests of the page need from outside: Node.js, a browser, an exported model."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed; it runs the page's modules")
    return found


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("chromium is not installed; it shows the page")
    return found


@pytest.fixture(scope="session")
def builder() -> ModuleType:
    """web/build.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("web_build", REPOSITORY / "web/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""What the tests of the page need from outside: Node.js, a browser, an exported model."""

import shutil
from types import ModuleType

import pytest


def found(*programs: str) -> str:
    paths = [path for program in programs if (path := shutil.which(program))]
    if not paths:
        pytest.skip(f"{programs[0]} is not installed")
    return paths[0]


@pytest.fixture(scope="session")
def node() -> str:
    return found("node")


@pytest.fixture(scope="session")
def chromium() -> str:
    return found("chromium", "google-chrome")


@pytest.fixture(scope="session")
def builder(script) -> ModuleType:
    return script("web/build.py")

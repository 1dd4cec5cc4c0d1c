"""Whole command lines, in forked processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from train_server import TrainServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainServer]:
    empty: Path = tmp_path_factory.mktemp("torch")  # No weights have been downloaded.
    server = TrainServer(TORCH_HOME=str(empty))
    yield server
    server.close()

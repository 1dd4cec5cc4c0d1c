"""Composes a command's configuration from the command line, runs it, and words its errors."""

import importlib
import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from pnfs.commands.configuration import configuration_folder


class JobFailed(CompactHydraException):
    """A job of a sweep failed; Hydra prints the message without a traceback."""


def start(command: str) -> None:
    """Runs a command with the command line that `sys.argv` holds."""
    failed: list[str] = []

    def task(config: DictConfig) -> object:
        # Loaded when it runs, so that a command's --help need not wait for torch.
        run = importlib.import_module(f"pnfs.commands.{command}").run
        try:
            return run(config)
        except Exception as error:
            # Every error a user can cause is a ValueError with a message of its own.
            cause = _cause(error)
            known = isinstance(cause, (ValueError, OmegaConfBaseException))
            sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
            if os.environ.get("PNFS_TRACEBACK") or not (known or sweeps):
                raise
            message = f"[bold red]pnfs {command}:[/] {escape(str(cause) if known else repr(cause))}"
            Console(stderr=True).print(message, soft_wrap=True, highlight=False)
            if not sweeps:
                sys.exit(1)
            failed.append(" ".join(HydraConfig.get().overrides.task))
            # Hydra goes on to the sweep's next job, and exits with 1 after the last.
            raise JobFailed(_one_line(cause)) from None

    folder = str(configuration_folder())
    try:
        hydra.main(version_base="1.3", config_path=folder, config_name=command)(task)()
    finally:
        for job in failed:
            print(f"pnfs {command}: failed: {job}", file=sys.stderr)


def _cause(error: BaseException) -> BaseException:
    """What a user can act upon: the error that Hydra wraps while it builds objects."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _one_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__

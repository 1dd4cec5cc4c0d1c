"""Composes a command's configuration from the command line, runs it, and words its errors."""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import ClassVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from pnfs.commands.configuration import UsageError, configuration_folder
from pnfs.commands.devices import take_gpu_if_asked
from pnfs.commands.quiet import quiet_libraries
from pnfs.commands.rows import with_globs_expanded

MODULES: Mapping[str, str] = {"import": "import_checkpoint"}
"""Command -> its module, where the command's name cannot be a module's."""


class JobFailed(CompactHydraException):
    """A job of a sweep failed; Hydra prints the message without a traceback.

    Hydra raises the first failure only. Launchers bring all of them back from the processes of their jobs, and an
    exception that arrives is made anew: so each notes its job here, wherever the job ran.

    Attributes:
        jobs: Overrides of the jobs that failed, in order of arrival.
    """

    jobs: ClassVar[list[str]] = []

    def __init__(self, cause: str, job: str) -> None:
        super().__init__(cause, job)
        self.cause = cause
        if job not in self.jobs:
            self.jobs.append(job)

    def __str__(self) -> str:
        return self.cause


def start(command: str) -> None:
    """Runs a command with the command line that `sys.argv` holds."""

    def task(config: DictConfig) -> object:
        try:
            take_gpu_if_asked()
            # Loaded when it runs, so that a command's --help need not wait for torch.
            module = MODULES.get(command, command)
            run = importlib.import_module(f"pnfs.commands.{module}").run
            # A launcher may run this in a process of its own; and Lightning's import sets its loggers to talk.
            quiet_libraries()
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
            # Hydra goes on to the sweep's next job, and exits with 1 after the last.
            raise JobFailed(_one_line(cause), " ".join(HydraConfig.get().overrides.task)) from None

    folder = str(configuration_folder())
    try:
        sys.argv[1:] = with_globs_expanded(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=folder, config_name=command)(task)()
    except UsageError as error:
        sys.exit(f"pnfs {command}: {error}")
    except CompactHydraException as error:
        # Hydra words its errors, but not those of a command line that has --help in it.
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        causes = "" if error.__cause__ is None else f"\n{error.__cause__}"
        sys.exit(f"pnfs {command}: {error}{causes}")
    finally:
        for job in JobFailed.jobs:
            print(f"pnfs {command}: failed: {job}", file=sys.stderr)


def _cause(error: BaseException) -> BaseException:
    """What a user can act upon: the error that Hydra wraps while it builds objects."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        if str(error).startswith("Error locating target"):
            reason = " ".join(str(error.__cause__).split())
            return UsageError(f"{reason} The folder of a module of your own must be in PYTHONPATH.")
        error = error.__cause__
    return error


def _one_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__

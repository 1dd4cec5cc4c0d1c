"""The `pnfs` command: `pnfs COMMAND key=value ...`."""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Mapping

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from pnfs.commands.configuration import configuration_folder

COMMANDS: Mapping[str, str] = {
    "train": "search and train a network, then evaluate it; resumes what was interrupted",
    "evaluate": "score a trained network on a dataset",
    "show": "draw a found architecture",
    "derive": "the equal, a pruned, or a discretised network of a found architecture",
    "cost": "parameters and multiply-accumulates of a configuration",
}


def usage() -> str:
    """What `pnfs --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pnfs COMMAND [key=value ...]",
            "",
            "Pose Neural Fabrics Search. Commands:",
            *lines,
            "",
            "`pnfs COMMAND --help` shows the choices of every configuration group.",
        ]
    )


def main() -> None:
    """Entry point of the console command."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if arguments else 2)
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"pnfs: there is no command {command!r}\n\n{usage()}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"pnfs {command}", *rest]
    quiet_libraries()
    run = importlib.import_module(f"pnfs.commands.{command}").run

    def task(config: DictConfig) -> object:
        try:
            return run(config)
        except (ValueError, OmegaConfBaseException, InstantiationException) as error:
            # Every error a user can cause is a ValueError with a message of its own.
            cause = _cause(error)
            if os.environ.get("PNFS_TRACEBACK") or not isinstance(
                cause, (ValueError, OmegaConfBaseException)
            ):
                raise
            message = f"[bold red]pnfs {command}:[/] {escape(str(cause))}"
            Console(stderr=True).print(message, soft_wrap=True, highlight=False)
            sys.exit(1)

    folder = str(configuration_folder())
    hydra.main(version_base="1.3", config_path=folder, config_name=command)(task)()


def quiet_libraries() -> None:
    """Leaves the terminal to what the user asked for; warnings and errors still show."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")


def _cause(error: BaseException) -> BaseException:
    """What a user can act upon: the error that Hydra wraps while it builds objects."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error

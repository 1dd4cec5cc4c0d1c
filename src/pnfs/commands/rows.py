"""Rows of the paper's tables: files of `conf/experiment/<table>/`, one a row."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import pnfs
from pnfs.commands.configuration import UsageError, configuration_folder, plain


def with_globs_expanded(arguments: Sequence[str]) -> list[str]:
    """`experiment=glob(table3/*)` as the list of its rows: Hydra's own glob sees the files of one folder only.

    Raises:
        UsageError: No row matches.
    """
    folders = [configuration_folder()]
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        option, equals, value = argument.partition("=")
        if option in ("--config-dir", "-cd"):
            folders.append(Path(value if equals else following))
    return [
        f"experiment={','.join(_matching(found[1], folders))}" if found else argument
        for argument in arguments
        for found in [re.fullmatch(r"experiment=glob\((.*/.*)\)", argument)]
    ]


def _matching(patterns: str, folders: Sequence[Path]) -> list[str]:
    roots = [folder / "experiment" for folder in folders]
    names = [
        path.relative_to(root).with_suffix("").as_posix()
        for pattern in re.sub(r"^\[(.*)\]$", r"\1", patterns).split(",")
        for root in roots
        for path in sorted(root.glob(f"{pattern.strip()}.yaml"))
    ]
    if not names:
        tables = {path.name for root in roots for path in root.glob("*/")}
        known = ", ".join(sorted(tables))
        raise UsageError(f"experiment=glob({patterns}) matches no row; there are rows of {known}")
    return names


def experiments_folder(given: str | None) -> Path:
    """Where the paper's numbers lie: a folder of the user's, or what is installed with the package."""
    if given is not None:
        return Path(given).expanduser()
    package = Path(pnfs.__file__).parent
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parents[1] / "experiments"


class Rows:
    """The configurations of a table's rows, as `pnfs train` resolves them.

    Args:
        table: Folder in `conf/experiment/`.
        overrides: For all rows.
    """

    def __init__(self, table: str, overrides: Sequence[str]) -> None:
        self._table, self._overrides = table, list(overrides)
        self._composed: dict[str, DictConfig] = {}

    def settings(self, row: str, seed: int) -> dict[str, Any]:
        """The resolved configuration of a row with a seed.

        Raises:
            RowError: The overrides do not go with this row.
        """
        try:
            if row not in self._composed:
                config = compose("train", [f"experiment={self._table}/{row}", *self._overrides])
                self._composed[row] = config
            config = self._composed[row].copy()
            OmegaConf.update(config, "seed", seed)
            # Their hash would read the dataset.
            config.run_name = config.run_dir = ""
            return plain(config)
        except (HydraException, OmegaConfBaseException, UsageError) as error:
            # Here and not above: every command reads this file, and few need pandas.
            from pnfs.reproduce.results import RowError

            raise RowError(" ".join(str(error).split())) from None

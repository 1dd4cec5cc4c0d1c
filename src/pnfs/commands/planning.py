"""Which trainings a table or figure consists of: the configuration of each row, on its dataset."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pnfs.commands.configuration import (
    UsageError,
    build_source,
    configuration_folder,
    plain,
)
from pnfs.reproduce.results import PlannedRun
from pnfs.reproduce.targets import Row, Target
from pnfs.runs.finding import find_same
from pnfs.runs.identity import read_digests, run_folder
from pnfs.runs.state import cause_of


def plan(
    target: Target,
    overrides: Sequence[str],
    seeds: Sequence[int] | None,
    roots: Mapping[str, str | None] | None = None,
) -> list[PlannedRun]:
    """The runs that a target consists of, each found by composing its configuration.

    What makes a row has the last word, so that overrides for all rows leave them different.

    Args:
        target: The rows.
        overrides: For all of them.
        seeds: Of every row; None: those in its description.
        roots: Name of a dataset -> its folder, for the rows on that dataset.
    """
    common = common_overrides(target, overrides)
    folders = RunFolders()
    return [
        _planned(row, seed, [*common, *row.overrides], roots or {}, folders)
        for row in target.rows
        if not row.cannot
        for seed in (row.seeds if seeds is None else seeds)
    ]


def common_overrides(target: Target, overrides: Sequence[str]) -> list[str]:
    """Of all rows of a target."""
    return [f"profile={target.profile}", *target.overrides, *overrides]


def _planned(
    row: Row,
    seed: int,
    overrides: list[str],
    roots: Mapping[str, str | None],
    folders: "RunFolders",
) -> PlannedRun:
    given = (*overrides, f"seed={seed}")
    try:
        root = roots.get(dataset_of(given)) if any(roots.values()) else None
        if root is not None:
            given = (*given, f"dataset.root={_quoted(root)}")
        settings = plain(configuration_of(given))
        folder = folders.of(settings)
    except (HydraException, OmegaConfBaseException, ValueError, ImportError) as error:
        return PlannedRun(row, seed, given, None, {}, problem=cause_of(error))
    return PlannedRun(row, seed, given, folder, settings)


class RunFolders:
    """Where runs are or will be. Reads each dataset once; tables can be made without it."""

    def __init__(self) -> None:
        self._digests: dict[str, dict[str, str] | None] = {}

    def of(self, settings: dict[str, Any]) -> Path:
        """The folder of a run.

        Raises:
            UsageError: The dataset is not at hand, and several runs of this configuration differ in theirs.
        """
        persons = self._persons(settings["dataset"])
        if persons is not None:
            return run_folder(settings, persons)
        found = [run.folder for run in find_same(settings)]
        if len(found) > 1:
            raise UsageError(
                f"{', '.join(map(str, found))} are runs of one configuration on different data, and the dataset "
                "that would tell which is meant is not there: set dataset.root"
            )
        return found[0] if found else run_folder(settings)

    def _persons(self, dataset: dict[str, Any]) -> dict[str, str] | None:
        key = json.dumps(dataset, sort_keys=True)
        if key not in self._digests:
            try:
                self._digests[key] = read_digests(build_source(dataset))
            except (HydraException, ValueError, OSError):
                # Training says what is wrong with the data, in the run that needs them.
                self._digests[key] = None
        return self._digests[key]


def check_roots(
    runs: Sequence[PlannedRun], overrides: Sequence[str], roots: Mapping[str, str | None]
) -> None:
    """Refuses one folder for several datasets, and a folder that no row reads.

    Raises:
        UsageError: Says which, and what to give.
    """
    given = [name for name, root in roots.items() if root is not None]
    for_all = any(override.lstrip("+").startswith("dataset.root=") for override in overrides)
    if not given and not for_all:
        return
    rows = {run.row.label: run for run in runs if not run.problem}
    used = sorted({dataset_of(run.overrides) for run in rows.values()})
    unused = [name for name in given if name not in used]
    if unused and used:
        raise UsageError(f"roots.{unused[0]} is read by no row: the rows are on {', '.join(used)}")
    if for_all and given:
        raise UsageError(
            f"dataset.root gives all rows one folder, roots.{given[0]} those on {given[0]} another: "
            "give roots alone"
        )
    if for_all and len(used) > 1:
        wanted = " ".join(f"roots.{name}=…" for name in used)
        raise UsageError(
            f"dataset.root would give the rows on {' and '.join(used)} one folder: give {wanted}"
        )


def _quoted(text: str) -> str:
    """Text as Hydra reads it from the command line, whatever it holds."""
    # A backslash counts only before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def dataset_of(overrides: Sequence[str]) -> str:
    """Name of the configuration of the dataset that `pnfs train` reads, as `roots` names it."""
    choices = _composed(overrides, return_hydra_config=True).hydra.runtime.choices
    return str(choices["dataset"])


def configuration_of(overrides: Sequence[str]) -> DictConfig:
    """What `pnfs train` makes of overrides, parts chosen; needs no data."""
    return _composed(overrides)


def _composed(overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    if GlobalHydra.instance().is_initialized():
        return compose("train", list(overrides), return_hydra_config=return_hydra_config)
    with initialize_config_dir(version_base="1.3", config_dir=str(configuration_folder())):
        return compose("train", list(overrides), return_hydra_config=return_hydra_config)

"""`pnfs tables`: the paper's tables and figures from the records of the runs."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pnfs.commands.configuration import UsageError, console, packaged_folder, plain
from pnfs.errors import PnfsError
from pnfs.reproduce.page import draw_figures, write_table
from pnfs.reproduce.results import find_results, kept_results, read_target, target_names
from pnfs.runs.state import find_runs

OWN_KEYS = ("target", "experiments", "out", "kept", "profile", "hydra")


def run(settings: dict[str, Any]) -> None:
    """Writes table, figure and data of each target; says what is missing."""
    profile = HydraConfig.get().runtime.choices.get("profile")
    if profile is None:
        raise UsageError("choose a profile: profile=paper, profile=lspet or profile=smoke")
    given = for_the_rows(HydraConfig.get().overrides.task)
    named = settings["experiments"]
    root = Path(named).expanduser() if named else packaged_folder("experiments")
    says = yaml.safe_load((root / "profiles.yaml").read_text(encoding="utf-8")).get(profile, "")
    chosen = target_names(root) if settings["target"] == "all" else settings["target"]
    runs = find_runs(Path(settings["run_root"]).expanduser() / settings["name"])
    for name in [chosen] if isinstance(chosen, str) else chosen:
        target = read_target(root, name)
        if settings["kept"]:
            results = kept_results(target, root / name / "runs" / profile)
        else:
            settings_of = functools.partial(row_settings, name, [f"profile={profile}", *given])
            results = find_results(target, settings_of, runs)
        folder = Path(settings["out"]).expanduser() / name / "results" / profile
        written = write_table(target, results, folder, profile, says)
        title = f"{target.title} (profile {profile})"
        written += draw_figures(target, results, folder, title)
        console.print(f"{title}: {len(results.finished)} of {len(results.runs)} runs are finished")
        console.print(f"written: {', '.join(map(str, written))}")


def for_the_rows(overrides: Sequence[str]) -> list[str]:
    """The overrides that `pnfs train` was given with every row."""
    names = {override: override.lstrip("+~").partition("=")[0] for override in overrides}
    for name in names.values():
        if name in ("seed", "experiment", "initial"):
            raise UsageError(f"{name}: a table shows all its rows, with every seed that there is")
    return [o for o, name in names.items() if name.replace("/", ".").split(".")[0] not in OWN_KEYS]


@functools.lru_cache(maxsize=64)
def _composed(*overrides: str) -> DictConfig:
    return compose("train", list(overrides))


def row_settings(table: str, overrides: Sequence[str], row: str, seed: int) -> dict[str, Any]:
    """The configuration of a table's row, a file of `conf/experiment/<table>/`, as `pnfs train` resolves it.

    A `PnfsError` says why the overrides do not go with it.
    """
    try:
        config = _composed(f"experiment={table}/{row}", *overrides).copy()
        OmegaConf.update(config, "seed", seed)
        # Their hash would read the dataset.
        config.run_name = config.run_dir = ""
        return plain(config)
    except (HydraException, OmegaConfBaseException, UsageError) as error:
        raise PnfsError(" ".join(str(error).split())) from None

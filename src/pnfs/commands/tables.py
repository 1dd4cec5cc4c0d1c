"""`pnfs tables`: the paper's tables and figures from the records of the runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table

from pnfs.commands.configuration import UsageError, console, packaged_folder, plain
from pnfs.reproduce.figures import draw_figures
from pnfs.reproduce.page import tables, write_table
from pnfs.reproduce.results import RowError, find_results, kept_results
from pnfs.reproduce.targets import read_target, target_names
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
            rows = Rows(name, [f"profile={profile}", *given])
            results = find_results(target, rows.settings, runs)
        folder = Path(settings["out"]).expanduser() / name / "results" / profile
        written = write_table(target, results, folder, profile, says)
        written += draw_figures(target, results, folder, profile)
        for part, text in tables(target, results, profile).items():
            if "seeds" in text:
                title = f"{target.title} (profile {profile})"
                console.print(summary(f"{title}: {part}" if part else title, text))
        console.print(f"written: {', '.join(map(str, written))}")


def for_the_rows(overrides: Sequence[str]) -> list[str]:
    """The overrides that `pnfs train` was given with every row."""
    names = {override: override.lstrip("+~").partition("=")[0] for override in overrides}
    for name in names.values():
        if name in ("seed", "experiment", "initial"):
            raise UsageError(f"{name}: a table shows all its rows, with every seed that there is")
    return [o for o, name in names.items() if name.replace("/", ".").split(".")[0] not in OWN_KEYS]


class Rows:
    """The configurations of a table's rows, files of `conf/experiment/<table>/`, as `pnfs train` resolves them."""

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
                experiment = f"experiment={self._table}/{row}"
                self._composed[row] = compose("train", [experiment, *self._overrides])
            config = self._composed[row].copy()
            OmegaConf.update(config, "seed", seed)
            # Their hash would read the dataset.
            config.run_name = config.run_dir = ""
            return plain(config)
        except (HydraException, OmegaConfBaseException, UsageError) as error:
            raise RowError(" ".join(str(error).split())) from None


def summary(title: str, text: pd.DataFrame) -> Table:
    """What the terminal shows of a table of a page: its first scores and its costs, one line a row."""
    names = [str(name) for name in text]
    starts = ("paper: ", "ours (", "ours: live parameters (M)", "ours: MACs (G, 10^9)", "seeds")
    shown = [next((n for n in names if n.startswith(start)), None) for start in starts]
    table = Table("", title=title, title_justify="left")
    table.columns[0].overflow = "fold"
    shown = [name for name in shown if name]
    for name in shown:
        table.add_column(name, justify="right")
    for label, row in text[shown].iterrows():
        table.add_row(str(label), *row)
    return table

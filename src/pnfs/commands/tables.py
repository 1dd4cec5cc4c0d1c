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
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pnfs.commands.configuration import UsageError, experiments_folder, plain
from pnfs.reproduce.figures import FIGURES, draw_table
from pnfs.reproduce.page import tables, write_table
from pnfs.reproduce.results import RowError, find_results, kept_results
from pnfs.reproduce.targets import read_target, target_names
from pnfs.runs.state import find_runs

OWN_KEYS = ("target", "experiments", "out", "kept", "profile", "hydra")

console = Console()


def run(config: DictConfig) -> None:
    """Writes table, figure and data of each target; says what is missing."""
    profile = HydraConfig.get().runtime.choices.get("profile")
    if profile is None:
        raise UsageError("choose a profile: profile=paper, profile=lspet or profile=smoke")
    given = for_the_rows(HydraConfig.get().overrides.task)
    root = experiments_folder(config.experiments)
    says = yaml.safe_load((root / "profiles.yaml").read_text(encoding="utf-8")).get(profile, "")
    chosen = target_names(root) if config.target == "all" else config.target
    runs = find_runs(Path(config.run_root).expanduser() / config.name)
    for name in [chosen] if isinstance(chosen, str) else chosen:
        target = read_target(root, name)
        if config.kept:
            results = kept_results(target, root / name / "runs" / profile)
        else:
            rows = Rows(name, [f"profile={profile}", *given])
            results = find_results(target, rows.settings, runs)
        folder = Path(config.out).expanduser() / name / "results" / profile
        written = write_table(target, results, folder, profile, says)
        draw_table(target, results, folder / "table.png", profile)
        written["table.png"] = folder / "table.png"
        draw = FIGURES.get(target.kind)
        title = f"{target.title} (profile {profile})"
        if draw is not None and (picture := draw(target, results, folder, title)) is not None:
            written["figure"] = picture
        for name, text in tables(target, results, profile).items():
            if "seeds" in text:
                console.print(summary(f"{title}{f': {name}' if name else ''}", text))
        console.print(f"written: {', '.join(map(str, written.values()))}", soft_wrap=True)


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
    firsts = [[name for name in names if name.startswith(start)][:1] for start in starts]
    shown = [name for first in firsts for name in first]
    table = Table("", title=escape(title), title_justify="left")
    table.columns[0].overflow = "fold"
    for name in shown:
        table.add_column(escape(name), justify="right")
    for label, row in text[shown].iterrows():
        table.add_row(escape(str(label)), *map(escape, row))
    return table

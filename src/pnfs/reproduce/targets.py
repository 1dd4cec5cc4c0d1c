"""The tables and figures of the paper: `experiments/<name>/target.yaml` and its numbers, `paper.csv`."""

from pathlib import Path
from typing import Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from pnfs.errors import PnfsError

OTHERS = {
    "backbone": "backbone",
    "backbone_params": "backbone parameters (M)",
    "head": "head",
    "head_params": "head parameters (M)",
    "params": "parameters (M)",
    "flops": "MACs (G)",
    "gpu_days": "search time (GPU-days)",
}
"""Columns of paper.csv that are not scores -> their title."""

PAPER_GIGA = 2**30
"""The summary in the public pose code divides by 1024^3, and the paper's counts of baselines fit that."""


class TargetError(PnfsError):
    """A target that does not exist, or whose files are wrong; the message names the file."""


class Target(BaseModel):
    """A table or figure of the paper."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    name: str  # Its folder in `experiments/`, and that of its rows in `conf/experiment/`.
    title: str  # As the paper names it.
    tests: str  # The question it answers, one sentence.
    source: str  # Where the paper's numbers stand, and what they were measured on.
    kind: Literal["table", "trade_off", "loss_curves", "poses"]  # What is drawn beside the table.
    scores: dict[str, str] = {}  # Column of paper.csv -> the score of our records beside it.
    rows: dict[str, str]  # File in `conf/experiment/<name>/` -> label, as in paper.csv.
    against: str | None = None  # Row (file) to compare the others with; None: the first with runs.
    questions: dict[str, str] = {}  # Row (file) -> the question that its comparison answers.
    notes: dict[str, str] = {}  # Profile -> what to know about its numbers.
    counts: dict[str, str] = {}  # Row, or "all" -> why our parameters and MACs differ.
    published: pd.DataFrame  # paper.csv as printed: labels -> text, "" where nothing is printed.

    @model_validator(mode="after")
    def _rows_exist(self) -> "Target":
        unknown = {*self.questions, *([self.against] if self.against else [])} - self.rows.keys()
        if unknown:
            raise ValueError(f"no row of its own is {', '.join(sorted(unknown))}")
        return self

    @property
    def cited(self) -> list[str]:
        """Published rows that no row of ours stands beside: other methods, cited by the paper."""
        return [method for method in self.published.index if method not in self.rows.values()]


def target_names(root: Path) -> list[str]:
    """Names of all targets below `experiments/`; a `TargetError` if there are none."""
    names = sorted(path.parent.name for path in root.glob("*/target.yaml"))
    if not names:
        raise TargetError(f"{root.resolve()}: no table or figure here; set experiments=<folder>")
    return names


def read_target(root: Path, name: str) -> Target:
    """A table or figure with the paper's numbers; a `TargetError` if there is none, or a file is wrong."""
    if name not in target_names(root):
        raise TargetError(f"no target {name!r}; there are {', '.join(target_names(root))}, all")
    path = root / name / "target.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        published = read_published(path.parent, content.get("scores", {}))
        return Target(name=name, **content, published=published)
    except TargetError:
        raise
    except (OSError, ValueError, yaml.YAMLError, TypeError, AttributeError) as error:
        raise TargetError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def read_published(folder: Path, scores: dict[str, str]) -> pd.DataFrame:
    """The paper's numbers in a folder, as text; empty if there is no paper.csv.

    The first column of the file names the method; further ones are `who` (ours, or cited: another method's), those
    of `scores` (see `Target`; and `<column>_std`) and any of `OTHERS`. A `TargetError` says what is wrong in it.
    """
    path = folder / "paper.csv"
    if not path.exists() and not scores:
        return pd.DataFrame(columns=["who"], dtype=str)
    known = {"who", *scores, *(f"{column}_std" for column in scores), *OTHERS}
    try:
        table = pd.read_csv(path, comment="#", dtype=str, keep_default_na=False, index_col=0)
        there = set(map(str, table))
        if wrong := ({"who", *scores} - there) | (there - known):
            raise ValueError(f"lacks, or has wrongly, column {', '.join(sorted(wrong))}")
        if not table.index.is_unique or not set(table["who"]) <= {"ours", "cited"}:
            raise ValueError("two rows have the same method, or `who` is neither ours nor cited")
        # These hold words, unless they are scores of body parts.
        for column in there - ({"who", "backbone", "head"} - set(scores)):
            pd.to_numeric(table[column].replace("", "0"))
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors.
        raise TargetError(f"{path}: cannot be read: {error}") from None
    return table

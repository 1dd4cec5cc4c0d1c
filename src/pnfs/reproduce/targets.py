"""The tables and figures that can be reproduced, as `experiments/<name>/target.yaml` describes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from pnfs.errors import PnfsError
from pnfs.reproduce.published import FILE as PUBLISHED_FILE
from pnfs.reproduce.published import Published, PublishedError, not_named, read_published

FILE = "target.yaml"

Kind = Literal["table", "trade_off", "loss_curves", "poses"]


class TargetError(PnfsError):
    """A target that does not exist or whose description is wrong; the message names the file."""


@dataclass(frozen=True)
class Row:
    """One configuration of a table, trained once for each seed."""

    label: str
    overrides: tuple[str, ...]
    """Hydra's, over those of the profile and the target: what makes the row."""
    seeds: tuple[int, ...] = (0,)
    paper: Published | None = None
    """What the paper prints for it; None if it has no such row."""
    note: str = ""
    cannot: str = ""
    """Why there can be no run of this row in this profile."""


@dataclass(frozen=True)
class Target:
    """A table or figure of the paper in one profile."""

    name: str
    title: str
    tests: str
    """One sentence: which question it answers."""
    source: str
    """Where the paper's numbers stand, and what they were measured on."""
    kind: Kind
    profile: str
    profile_says: str
    """One phrase: what the profile's numbers are worth."""
    overrides: tuple[str, ...]
    """Of all rows."""
    rows: tuple[Row, ...]
    published: tuple[Published, ...] = ()
    """All rows of the paper's table, in its order."""

    @property
    def heading(self) -> str:
        """Title with the profile: numbers of different profiles do not compare."""
        return f"{self.title} (profile {self.profile})"

    @property
    def published_alone(self) -> tuple[Published, ...]:
        """Published rows that no row of ours stands beside: other methods, cited by the paper."""
        return not_named(self.published, [row.paper.method for row in self.rows if row.paper])


def target_names(root: Path) -> list[str]:
    """Names of all targets below `experiments/`.

    Raises:
        TargetError: There are none.
    """
    names = sorted(path.parent.name for path in root.glob(f"*/{FILE}"))
    if not names:
        raise TargetError(
            f"{root.resolve()}: no table or figure here; start in the repository's folder or set "
            "experiments=<folder>"
        )
    return names


def read_target(root: Path, name: str, profile: str) -> Target:
    """A target as it stands in a profile.

    Args:
        root: `experiments/`.
        name: Of the target's folder.
        profile: Whose overrides apply.

    Raises:
        TargetError: There is no such target or profile, or a file is not as it should be.
    """
    if name not in target_names(root):
        raise TargetError(f"no target {name!r}; there are {', '.join(target_names(root))}, all")
    path = root / name / FILE
    says = _read(root / "profiles.yaml")
    if profile not in says:
        raise TargetError(f"no profile {profile!r}; there are {', '.join(says)}")
    content = _read(path)
    known = {"title", "tests", "source", "kind", "overrides", "profiles", "scores", "rows"}
    optional = {"overrides", "profiles", "scores"}
    _require(path, "", content, needed=known - optional, known=known)
    if content["kind"] not in get_args(Kind):
        raise TargetError(f"{path}: kind is {content['kind']!r}, not one of {get_args(Kind)}")
    here = (content.get("profiles") or {}).get(profile) or {}
    _require(path, f"profile {profile}", here, needed=set(), known={"overrides"})
    published = _published(path, content.get("scores"))
    rows = tuple(_row(path, entry, profile, published) for entry in content["rows"])
    labels = [row.label for row in rows]
    if len(set(labels)) < len(labels):
        raise TargetError(f"{path}: two rows have the same label")
    return Target(
        name=name,
        title=content["title"],
        tests=content["tests"],
        source=content["source"],
        kind=content["kind"],
        profile=profile,
        profile_says=says[profile],
        overrides=(*content.get("overrides", ()), *here.get("overrides", ())),
        rows=rows,
        published=published,
    )


def chosen_rows(targets: Sequence[Target], labels: Sequence[str] | None) -> tuple[Row, ...]:
    """The rows of any of the targets with these labels, all if None.

    Raises:
        TargetError: None of the targets has a row with such a label.
    """
    rows = [row for target in targets for row in target.rows]
    if labels is None:
        return tuple(rows)
    there = list(dict.fromkeys(row.label for row in rows))
    unknown = set(labels) - set(there)
    if unknown:
        names = " or ".join(target.name for target in targets)
        raise TargetError(
            f"there is no row {sorted(unknown)} in {names}; there are {', '.join(map(repr, there))}"
        )
    return tuple(row for row in rows if row.label in labels)


def _published(path: Path, scores: Any) -> tuple[Published, ...]:
    """The published table beside a description; empty if there is none."""
    file = path.parent / PUBLISHED_FILE
    if scores is None and not file.exists():
        return ()
    scores = {} if scores is None else scores
    if not isinstance(scores, dict) or not all(isinstance(v, str) for v in scores.values()):
        raise TargetError(f"{path}: scores is {scores!r}, not a mapping of columns to score names")
    try:
        return read_published(file, scores)
    except PublishedError as error:
        raise TargetError(str(error)) from error


def _row(path: Path, entry: Mapping[str, Any], profile: str, published: Sequence[Published]) -> Row:
    where = f"row {entry.get('label', '?')!r}"
    known = {"label", "overrides", "seeds", "paper", "note", "profiles"}
    _require(path, where, entry, needed={"label", "overrides"}, known=known)
    here = (entry.get("profiles") or {}).get(profile) or {}
    _require(path, where, here, needed=set(), known={"overrides", "note", "cannot", "seeds"})
    return Row(
        label=str(entry["label"]),
        overrides=(*entry["overrides"], *here.get("overrides", ())),
        seeds=tuple(here.get("seeds", entry.get("seeds", (0,)))),
        paper=_beside(path, where, entry.get("paper"), published),
        note="; ".join(note for note in (entry.get("note"), here.get("note")) if note),
        cannot=here.get("cannot", ""),
    )


def _beside(
    path: Path, where: str, method: Any, published: Sequence[Published]
) -> Published | None:
    """The published row that `paper:` names."""
    found = [row for row in published if row.method == method]
    if method is not None and not found:
        raise TargetError(
            f"{path}: {where}: paper is {method!r}, which is no method in {PUBLISHED_FILE}"
        )
    return found[0] if found else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise TargetError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise TargetError(f"{path}: is not a mapping")
    return content


def _require(
    path: Path, where: str, content: Mapping[str, Any], needed: set[str], known: set[str]
) -> None:
    missing, unknown = needed - set(content), set(content) - known
    if missing or unknown:
        what = [f"lacks {name}" for name in sorted(missing)]
        what += [f"has an unknown key {name}" for name in sorted(unknown)]
        raise TargetError(f"{path}: {where} {' and '.join(what)}".replace(":  ", ": "))

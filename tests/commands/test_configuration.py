"""Every choice of the configuration composes, names what exists, and says what the paper says."""

import re
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate

from pnfs.body import PartMode, skeleton_by_name
from pnfs.commands import main
from pnfs.commands.configuration import packaged_folder
from pnfs.commands.keys import checked
from pnfs.models import PAPER, POSENFS
from pnfs.training.loss import HeatmapLoss
from tiny_runs import composed

CONF = packaged_folder("conf")
COMMANDS = tuple(main.COMMANDS)


def groups_of(command: str) -> list[str]:
    """Groups that a command's defaults list lets a user choose from."""
    defaults = yaml.safe_load((CONF / f"{command}.yaml").read_text())["defaults"]
    named = [group for entry in defaults if isinstance(entry, dict) for group in entry]
    groups = [group.removeprefix("optional ").lstrip("/") for group in named]
    return [group for group in groups if (CONF / group).is_dir()]


def choices_of(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


# Each choice once, in the first command that has its group.
CHOICES = list(
    {
        (group, choice): (command, group, choice)
        for command in reversed(COMMANDS)
        for group in groups_of(command)
        for choice in choices_of(group)
        # The choice of another command's checkpoint, and one that reads a checkpoint.
        if (command, choice) not in (("train", "of_checkpoint"), ("train", "finetune"))
    }.values()
)


def test_every_group_belongs_to_a_command() -> None:
    # Launchers of sweeps are Hydra's own group.
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}
    assert folders == {group for _, group, _ in CHOICES}
    assert len(CHOICES) > 40


# --- every choice composes, and its targets take its keys


@pytest.mark.parametrize(("command", "group", "choice"), CHOICES)
def test_choice_composes_and_fits_its_targets(command: str, group: str, choice: str) -> None:
    overrides = [f"{group}={choice}"]
    if command in ("evaluate", "derive", "export", "import"):
        overrides.append("checkpoint=some.ckpt")
    if command == "tables":
        overrides.append("target=all")
    if choice.startswith("p3_random") and command != "data":
        overrides.append("skeleton=lsp")  # A control of the study, which is on LSP's joints.
    checked(command, composed(command, *overrides))


# --- every key is explained

# Part and operation names are the content of these groups, which the head of each file explains; recipes change
# keys that are explained where they are defined.
_GROUPS_OF_DATA = ("parts", "operations", "experiment")
FILES = [path for path in CONF.glob("*/*.yaml") if path.parent.name not in _GROUPS_OF_DATA]
FILES += [CONF / f"{name}.yaml" for name in ("base", *COMMANDS)]


def keys_of(path: Path) -> dict[str, bool]:
    """Key that holds a value -> whether a comment stands at it or above, or in a file that this one builds on.

    An interpolation is explained where it points.
    """
    text = path.read_text().partition("\nhydra:")[0]
    lines = text.splitlines()

    def explained(n: int) -> bool:
        if re.search(r"\s#", lines[n]) or (n and lines[n - 1].lstrip().startswith("#")):
            return True
        # The comment above a mapping speaks for its first key too.
        return bool(n) and re.fullmatch(r"\s*\w+:", lines[n - 1]) is not None and explained(n - 1)

    found: dict[str, bool] = {}
    for n, line in enumerate(lines):
        if key := re.match(r" *([a-z]\w*): +[^$\s]", line):
            found[key[1]] = found.get(key[1], True) and explained(n)
    for entry in yaml.safe_load(text).get("defaults", []):
        if isinstance(entry, str) and (sibling := path.parent / f"{entry}.yaml").is_file():
            found |= {key: True for key, is_explained in keys_of(sibling).items() if is_explained}
    return found


def test_every_key_is_explained() -> None:
    left = {path: [key for key, explained in keys_of(path).items() if not explained] for path in FILES}
    assert {path: keys for path, keys in left.items() if keys} == {}
    assert sum(map(len, map(keys_of, FILES))) > 300


def test_every_file_begins_with_what_it_is() -> None:
    files = CONF.glob("**/*.yaml")
    assert [path for path in files if not path.read_text().startswith("# ")] == []


# --- Table I, by joint numbers

TABLE_I = {
    ("mpii", 1): "0-15", ("mpii", 3): "0-2 3-8 9-15", ("mpii", 5): "0-4 5,7 6,8 9,10,15 11-14",
    ("mpii", 8): "0-4 3,5 5,7 4,6 6,8 9-12,15 11,13 12,14",
    ("coco", 1): "0-16", ("coco", 3): "0-4 5-10 11-16", ("coco", 5): "0-6 7,9 8,10 11,12 13-16",
    ("coco", 8): "0-6 5,7 7,9 6,8 8,10 11-14 13,15 14,16",
}  # fmt: skip
PARTS = {
    1: "whole_body", 3: "head upper_limb lower_limb",
    5: "head_shoulder left_lower_arm right_lower_arm thigh lower_limb",
    8: "head_shoulder left_upper_arm left_lower_arm right_upper_arm right_lower_arm thigh left_lower_leg "
       "right_lower_leg",
}  # fmt: skip


@pytest.mark.parametrize(("skeleton", "number"), TABLE_I)
def test_part_mode_agrees_with_table_1(skeleton: str, number: int) -> None:
    groups = yaml.safe_load((CONF / "parts" / f"p{number}.yaml").read_text())
    mode = PartMode(skeleton_by_name(skeleton), groups[skeleton])
    found = {name: sorted(mode.skeleton.indices(list(mode.parts[name]))) for name in mode.names}
    expected = [
        [
            n
            for span in part.split(",")
            for a, _, b in [span.partition("-")]
            for n in range(int(a), int(b or a) + 1)
        ]
        for part in TABLE_I[skeleton, number].split()
    ]
    assert list(found.items()) == list(zip(PARTS[number].split(), expected, strict=True))


# --- presets that exist as constants too


@pytest.mark.parametrize(
    ("choice", "rules", "maps", "factor"),
    [("paper", PAPER, "parts", 1.0), ("posenfs", POSENFS, "joints", 0.5)],
)
def test_fabric_presets_equal_the_constants(choice: str, rules: object, maps: str, factor: float) -> None:
    config = composed("train", f"variant={choice}")
    assert instantiate(config.variant.rules) == rules
    assert instantiate(config.model.fabrics.rules) == rules
    loss = instantiate(config.loss)
    assert isinstance(loss, HeatmapLoss)
    assert (loss.maps, loss.factor) == (maps, factor)

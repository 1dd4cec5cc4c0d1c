"""The command line before Hydra reads it: ordinary file names in quotes, globs of recipes as lists."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pnfs.commands.configuration import UsageError, configuration_folder

_ASSIGNMENT = re.compile(r"(\+{0,2}[A-Za-z_][\w./@]*)=(.+)", re.DOTALL)


def with_globs_expanded(arguments: Sequence[str]) -> list[str]:
    """`experiment=glob(table3/*)` as the list of its rows: Hydra's own glob sees the files of one folder only."""
    folders = [configuration_folder()]
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        option, equals, value = argument.partition("=")
        if option in ("--config-dir", "-cd"):
            folders.append(Path(value if equals else following))
    roots = [folder / "experiment" for folder in folders]
    found = [re.fullmatch(r"experiment=glob\((.*/.*)\)", given) for given in arguments]
    return [
        f"experiment={','.join(_rows(glob[1], roots))}" if glob else argument
        for argument, glob in zip(arguments, found, strict=True)
    ]


def _rows(patterns: str, roots: Sequence[Path]) -> list[str]:
    rows = [
        path.relative_to(root).with_suffix("").as_posix()
        for pattern in re.sub(r"^\[(.*)\]$", r"\1", patterns).split(",")
        for root in roots
        for path in sorted(root.glob(f"{pattern.strip()}.yaml"))
    ]
    if not rows:
        known = ", ".join(sorted({path.name for root in roots for path in root.glob("*/")}))
        raise UsageError(f"experiment=glob({patterns}) matches no row; there are rows of {known}")
    return rows


def with_inputs_named(command: str, arguments: Sequence[str]) -> list[str]:
    """`pnfs predict photo.jpg` as `pnfs predict input=photo.jpg`; several files become a list."""
    if command != "predict":
        return list(arguments)
    files, others = [], []
    for word, before in zip(arguments, ["", *arguments], strict=False):
        # What follows an option is the option's: --config-dir FOLDER.
        is_file = os.path.exists(word) and not before.startswith("-")  # noqa: PTH110
        (files if is_file else others).append(word)
    if not files:
        return others
    # One file is put in quotes where it needs them, as the value of any key is.
    quoted_files = ['"' + re.sub(r'(\\*)"', r'\1\1\\"', file) + '"' for file in files]
    value = files[0] if len(files) == 1 else f"[{','.join(quoted_files)}]"
    return [*others, f"input={value}"]


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments, with quotes around values that name a file and that Hydra could not read otherwise.

    So `input=my photo (1).jpg` and `input=照片.jpg` are what they seem; so is `input=a,b.jpg`, where that is a
    file's name, and no sweep.
    """
    parser = OverridesParser.create()
    return [_quoted(argument, parser) for argument in arguments]


def _quoted(argument: str, parser: OverridesParser) -> str:
    assignment = _ASSIGNMENT.fullmatch(argument)
    if assignment is None:
        return argument
    key, value = assignment.groups()
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    in_quotes, is_file = f'{key}="{escaped}"', os.path.exists(value)  # noqa: PTH110
    try:
        plain = not parser.parse_override(argument).is_sweep_override()
    except HydraException:
        if not is_file:
            raise UsageError(
                f"{argument}: this value cannot be read, and no file has this name. A text with such characters "
                f"stands in two kinds of quotes: '{in_quotes}'"
            ) from None
        plain = False
    return in_quotes if is_file and not plain else argument

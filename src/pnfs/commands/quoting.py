"""Ordinary file names on the command line, which Hydra's grammar reads in quotes only."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pnfs.commands.configuration import UsageError

_ASSIGNMENT = re.compile(r"(\+{0,2}[A-Za-z_][\w./@]*)=(.+)", re.DOTALL)


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments, with quotes around values that name a file and that Hydra could not read otherwise.

    So `input=my photo (1).jpg` and `input=照片.jpg` are what they seem; so is `input=a,b.jpg`, where that is a
    file's name, and no sweep.

    Raises:
        UsageError: A value cannot be read, and there is no such file; says how it is quoted.
    """
    parser = OverridesParser.create()
    return [_quoted(argument, parser) for argument in arguments]


def _quoted(argument: str, parser: OverridesParser) -> str:
    assignment = _ASSIGNMENT.fullmatch(argument)
    if assignment is None:
        return argument
    key, value = assignment.groups()
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    in_quotes = f'{key}="{escaped}"'
    try:
        plain = not parser.parse_override(argument).is_sweep_override()
    except HydraException:
        if not Path(value).exists():
            raise UsageError(
                f"{argument}: this value cannot be read, and no file has this name. A text with such characters "
                f"stands in two kinds of quotes: '{in_quotes}'"
            ) from None
        plain = False
    return argument if plain or not Path(value).exists() else in_quotes

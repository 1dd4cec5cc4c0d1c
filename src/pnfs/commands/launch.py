"""Composes a command's configuration from the command line, runs it, and words its errors."""

import itertools
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pnfs.commands.configuration import UsageError, packaged_folder, register_resolvers
from pnfs.commands.processes import outlive_reader, quiet_libraries, take_gpu_if_asked
from pnfs.errors import PnfsError

FUNCTIONS: Mapping[str, str] = {
    "import": "import_checkpoint:run",
    "show": "derive:show",
    "cost": "derive:cost",
    "derive": "derive:derive",
}
"""Command -> module and function of the configuration, where it is not `run` of the module of its name."""

_EXTRAS = ("wandb", "tensorboard", "onnx", "openvino")
"""Optional packages, each of which the extra of its name installs."""

log = logging.getLogger(__name__)


class JobFailed(CompactHydraException):
    """A job of a sweep failed; Hydra prints the message, the first argument, without a traceback.

    Hydra raises the first failure only. Launchers bring all of them back from the processes of their jobs, and an
    exception that arrives is made anew: so each notes its job here, wherever the job ran.
    """

    jobs: ClassVar[list[str]] = []
    """Overrides of the jobs that failed, in order of arrival."""

    def __init__(self, cause: str, job: str) -> None:
        super().__init__(cause, job)
        if job not in self.jobs:
            self.jobs.append(job)

    def __str__(self) -> str:
        return self.args[0]


class Task:
    """A command as Hydra calls it, in this process or, after it has travelled there, in a launcher's."""

    def __init__(self, command: str) -> None:
        self.command = self.__name__ = command
        # Interpolations are resolved before the task is called, also where a launcher has sent it.
        register_resolvers()

    def __reduce__(self) -> tuple[Callable[..., "Task"], tuple[str]]:
        return Task, (self.command,)

    def __call__(self, config: DictConfig) -> Any:
        try:
            outlive_reader()
            take_gpu_if_asked()
            return run(self.command, config)
        except Exception as error:
            cause = user_error(error)
            sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
            if cause is None and not sweeps:
                raise
            message = cause or _with_place(error)
            log.debug(traceback.format_exc())
            print(f"pnfs {self.command}: {message}", file=sys.stderr)
            if not sweeps:
                sys.exit(1)
            # Hydra goes on to the sweep's next job, and exits with 1 after the last.
            job = " ".join(HydraConfig.get().overrides.task)
            raise JobFailed(message.partition("\n")[0], job) from None


def run(command: str, config: DictConfig) -> Any:
    """Calls a command with its configuration, once that is checked."""
    # Loaded when it runs, so that a command's --help need not wait for torch.
    from pnfs.commands.keys import checked

    settings = checked(command, config)
    function = resolve_name(f"pnfs.commands.{FUNCTIONS.get(command, f'{command}:run')}")
    # Lightning's import sets its loggers to talk.
    quiet_libraries()
    return function(settings)


def start(command: str) -> None:
    """Runs a command with the command line that `sys.argv` holds."""
    signal.signal(signal.SIGTERM, _terminate)
    # A log that cannot be written, on a full disk, is no news of its own.
    logging.raiseExceptions = False
    # Hydra hands over its errors in place of printing them.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        sys.argv[1:] = quoted(with_inputs_named(command, with_globs_expanded(sys.argv[1:])))
        folder = str(packaged_folder("conf"))
        hydra.main(version_base="1.3", config_path=folder, config_name=command)(Task(command))()
    except KeyboardInterrupt:
        print(f"pnfs {command}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except JobFailed:
        sys.exit(1)
    except (HydraException, OmegaConfBaseException, PnfsError, OSError, ValueError) as error:
        if (said := _said(command, error)) is None:
            raise
        sys.exit(f"pnfs {command}: {said}")
    finally:
        for job in JobFailed.jobs:
            print(f"pnfs {command}: failed: {job}", file=sys.stderr)


def _terminate(signum: int, frame: object) -> None:
    print("interrupted", file=sys.stderr)
    sys.exit(128 + signum)


def _said(command: str, error: Exception) -> str | None:
    """What to say of a command line that does not compose; None of what is no user's mistake."""
    text = str(error)
    misspelt = re.match(r"Could not override '([^']+)'", text)
    if misspelt and "not in struct" in str(error.__cause__):
        from pnfs.commands.keys import known_keys, near_match

        key = misspelt[1]
        near = near_match(key, known_keys(command))
        return f"there is no key {key}{near or f' (+{key}=... adds one, where a class takes it)'}"
    if isinstance(error, OSError):
        return user_error(error) or text
    if isinstance(error, (HydraException, OmegaConfBaseException, PnfsError)):
        return text if error.__cause__ is None else f"{text}\n{error.__cause__}"
    return f"{text}; ~GROUP leaves a group out" if text.startswith("Config group over") else None


def user_error(error: BaseException) -> str | None:
    """What a user can act upon, of an error that Hydra may have wrapped; None if there is nothing."""
    built = ""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        places = re.findall(r"full_key: (.+)|target '(.+?)'", str(error))
        built = next(filter(None, places[-1]), "") if places else ""
        located, error = str(error).startswith("Error locating target"), error.__cause__
        if located:
            reason = " ".join(str(error).split())
            return f"{reason} The folder of a module of your own must be in PYTHONPATH."
    text = str(error)
    first = text.partition("\n")[0]
    extra = next((name for name in _EXTRAS if name in text), None)
    if isinstance(error, ImportError) and extra is not None:
        return f"{first} Install it with: pip install 'pnfs[{extra}]'"
    if isinstance(error, OSError) and error.strerror is not None:
        # What was open when a disk became full has no name: most likely a file in the command's own folder.
        here = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else None
        place = error.filename or here or "the folder of the run"
        return f"{place}: {error.strerror}; free that place, or name another (run_root=…, out=…)"
    if isinstance(error, (PnfsError, OmegaConfBaseException)):
        return text
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return f"{first} Where memory is short, fewer workers=… or a smaller batch_size=… need less"
    if built:  # Whatever a class makes of a value that it cannot use.
        return f"{built}: {_with_place(error)}"
    # No class of ours vouches for these; Lightning's is of arguments that do not go together, Hydra's of flags.
    foreign = isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException"
    return _with_place(error) if foreign or text.startswith("Instantiation: ") else None


def _with_place(error: BaseException) -> str:
    """An error with its class and the place that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f", {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{' '.join(str(error).split())} ({type(error).__name__}{place})"


# --- the command line before Hydra reads it: file names in quotes, globs of recipes as lists


def with_globs_expanded(arguments: Sequence[str]) -> list[str]:
    """`experiment=glob(table3/*)` as the list of its rows: Hydra's own glob sees the files of one folder only."""
    options = [part for argument in arguments for part in argument.split("=", 1)]
    folders = [b for a, b in itertools.pairwise(options) if a in ("--config-dir", "-cd")]
    roots = [Path(folder) / "experiment" for folder in (packaged_folder("conf"), *folders)]

    def rows(match: re.Match[str]) -> str:
        found = [
            path.relative_to(root).with_suffix("").as_posix()
            for pattern in re.sub(r"^\[(.*)\]$", r"\1", match[1]).split(",")
            for root in roots
            for path in sorted(root.glob(f"{pattern.strip()}.yaml"))
        ]
        if not found:
            known = ", ".join(sorted({path.name for root in roots for path in root.glob("*/")}))
            raise UsageError(f"{match[0]} matches no row; there are rows of {known}")
        return f"experiment={','.join(found)}"

    return [re.sub(r"^experiment=glob\((.*/.*)\)$", rows, argument) for argument in arguments]


def with_inputs_named(command: str, arguments: Sequence[str]) -> list[str]:
    """`pnfs predict photo.jpg` as `pnfs predict input=photo.jpg`; several files become a list."""
    if command != "predict":
        return list(arguments)
    # What follows an option is the option's: --config-dir FOLDER.
    words = [word for word, before in zip(arguments, ["", *arguments], strict=False) if not before.startswith("-")]
    files = [word for word in words if os.path.exists(word)]  # noqa: PTH110
    for word in words:
        if word not in files and "=" not in word and not word.startswith(("-", "~")):
            raise UsageError(f"{word}: there is no file or folder of this name")
    others = [word for word in arguments if word not in files]
    # One file is put in quotes where it needs them, as the value of any key is.
    value = files[0] if len(files) == 1 else f"[{','.join(map(_in_quotes, files))}]"
    return [*others, f"input={value}"] if files else others


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments, with quotes around values that name a file and that Hydra could not read otherwise.

    So `input=my photo (1).jpg` and `input=照片.jpg` are what they seem; so is `input=a,b.jpg`, where that is a
    file's name, and no sweep.
    """
    parser, found = OverridesParser.create(), []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not re.fullmatch(r"\+{0,2}[A-Za-z_][\w./@]*", key):
            found.append(argument)
            continue
        is_file = bool(value) and os.path.exists(value)  # noqa: PTH110
        try:
            plain = not parser.parse_override(argument).is_sweep_override()
        except HydraException:
            if not is_file:
                raise UsageError(
                    f"{argument}: this value cannot be read, and no file has this name. A text with such "
                    f"characters stands in two kinds of quotes: '{key}={_in_quotes(value)}'"
                ) from None
            plain = False
        found.append(f"{key}={_in_quotes(value)}" if is_file and not plain else argument)
    return found


def _in_quotes(text: str) -> str:
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return f'"{escaped}"'

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
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from pnfs.commands.configuration import (
    UsageError,
    checked,
    known_keys,
    near_match,
    packaged_folder,
    register_resolvers,
)
from pnfs.commands.processes import outlive_reader, quiet_libraries, take_gpu_if_asked
from pnfs.errors import PnfsError

FUNCTIONS: Mapping[str, str] = {
    "import": "import_checkpoint:run", "show": "derive:show", "cost": "derive:cost", "derive": "derive:derive",
    "export": "derive:export", "tables": "runs:tables",
}  # fmt: skip
"""Command -> module and function of the configuration, where it is not `run` of the module of its name."""

POSITIONAL = {"predict": "input"} | dict.fromkeys(("evaluate", "show", "derive", "export", "import"), "checkpoint")
"""Command -> the key whose value is a path that comes without one."""
_EXTRAS = ("wandb", "tensorboard", "onnx", "openvino")
"""Optional packages, each of which the extra of its name installs."""

log = logging.getLogger(__name__)


class JobFailed(CompactHydraException):
    """A job of a sweep failed; Hydra prints the message, the first argument, without a traceback.

    Hydra raises the first failure only. Launchers return all of them from their jobs' processes; unpickling
    makes each exception again, so each notes its job when it is made.
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
            sweeps, message = HydraConfig.get().mode == RunMode.MULTIRUN, said(error)
            if message is None and not sweeps:
                raise
            message = message or _with_place(error)
            log.debug(traceback.format_exc())
            print(f"pnfs {self.command}: {message}", file=sys.stderr)
            if not sweeps:
                sys.exit(1)
            # Hydra goes on to the sweep's next job, and exits with 1 after the last.
            job = " ".join(HydraConfig.get().overrides.task)
            raise JobFailed(message.partition("\n")[0], job) from None


def run(command: str, config: DictConfig) -> Any:
    """Calls a command with its configuration, once that is checked."""
    settings = checked(command, config)
    # Loaded when it runs, so that a command's --help need not wait for torch.
    function = resolve_name(f"pnfs.commands.{FUNCTIONS.get(command, f'{command}:run')}")
    quiet_libraries()  # Lightning's import sets its loggers to talk.
    return function(settings)


def start(command: str) -> None:
    """Runs a command with the command line that `sys.argv` holds."""
    signal.signal(signal.SIGTERM, _terminate)
    # No second report for a log that cannot be written, as on a full disk.
    logging.raiseExceptions = False
    # Hydra hands over its errors in place of printing them.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        sys.argv[1:] = as_overrides(command, with_globs_expanded(sys.argv[1:]))
        folder = str(packaged_folder("conf"))
        hydra.main(version_base="1.3", config_path=folder, config_name=command)(Task(command))()
    except KeyboardInterrupt:
        print(f"pnfs {command}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except JobFailed:
        sys.exit(1)
    except Exception as error:
        if (message := said(error, command)) is None:
            raise
        sys.exit(f"pnfs {command}: {message}")
    finally:
        for job in JobFailed.jobs:
            print(f"pnfs {command}: failed: {job}", file=sys.stderr)


def _terminate(signum: int, frame: object) -> None:
    print("interrupted", file=sys.stderr)
    sys.exit(128 + signum)


def said(error: BaseException, command: str = "") -> str | None:
    """The message for the user, of an error that Hydra may have wrapped; None for a bug."""
    built = ""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        places = re.findall(r"full_key: (.+)|target '(.+?)'", str(error))
        built = next(filter(None, places[-1]), "") if places else ""
        located, error = str(error).startswith("Error locating target"), error.__cause__
        if located:
            return f"{' '.join(str(error).split())} The folder of a module of your own must be in PYTHONPATH."
    cause: BaseException | None = error if isinstance(error, InterpolationResolutionError) else None
    while cause is not None:  # OmegaConf hides the causes of what resolvers raise.
        error = cause if isinstance(cause, PnfsError) else error
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    first = text.partition("\n")[0]
    misspelt = re.match(r"Could not override '([^']+)'", text)
    if misspelt and "not in struct" in str(error.__cause__):
        near = near_match(misspelt[1], known_keys(command))
        return f"there is no key {misspelt[1]}{near or ' (+KEY=... adds one, where a class takes it)'}"
    extra = next((name for name in _EXTRAS if name in text), None)
    if isinstance(error, ImportError) and extra is not None:
        return f"{first} Install it with: pip install 'pnfs[{extra}]'"
    if isinstance(error, OSError) and error.strerror is not None:
        # What was open when a disk became full has no name: most likely a file in the command's own folder.
        here = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else None
        place = error.filename or here or "the folder of the run"
        return f"{place}: {error.strerror}; free that place, or name another (run_root=…, out=…)"
    if isinstance(error, PnfsError):
        return text
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {first}" if error.full_key else first
    if isinstance(error, HydraException):
        return f"{text}\n{error.__cause__}" if error.__cause__ else text
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return f"{first} Where memory is short, fewer workers=… or a smaller batch_size=… need less"
    if built:  # Whatever a class makes of a value that it cannot use.
        return f"{built}: {_with_place(error)}"
    # No class of ours vouches for these; Lightning's is of arguments that do not go together.
    foreign = isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException"
    return _with_place(error) if foreign else None


def _with_place(error: BaseException) -> str:
    """An error with its class and the place that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f", {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{' '.join(str(error).split())} ({type(error).__name__}{place})"


# --- the command line before Hydra reads it: file names in quotes, globs of recipes as lists


def with_globs_expanded(arguments: Sequence[str]) -> list[str]:
    """`experiment=glob(table3/*)` as the list of its rows: Hydra's own glob sees the files of one folder only."""
    words = [part for argument in arguments for part in argument.split("=", 1)]
    own = [folder for option, folder in itertools.pairwise(words) if option in ("--config-dir", "-cd")]
    roots = [Path(folder) / "experiment" for folder in (packaged_folder("conf"), *own)]

    def rows(match: re.Match[str]) -> str:
        patterns = re.sub(r"^\[(.*)\]$", r"\1", match[1]).split(",")
        files = {
            path.relative_to(root).with_suffix("").as_posix(): None
            for pattern in patterns
            for root in roots
            for path in sorted(root.glob(f"{pattern.strip()}.yaml"))
        }
        if not files:
            known = ", ".join(sorted(path.name for root in roots for path in root.glob("*/")))
            raise UsageError(f"{match[0]} matches no row; there are rows of {known}")
        return f"experiment={','.join(files)}"

    return [re.sub(r"^experiment=glob\((.*/.*)\)$", rows, argument) for argument in arguments]


def as_overrides(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra takes them: names of files, such as `my photo (1).jpg` or `a,b.jpg`, in quotes;
    one without a key, `pnfs predict photo.jpg`, as the value of the key in `POSITIONAL`, several as a list."""
    parser, found, files = OverridesParser.create(), [], []
    for before, word in itertools.pairwise(["", *arguments]):
        key, _, value = word.partition("=")
        # What follows an option is the option's: --config-dir FOLDER.
        if command in POSITIONAL and not before.startswith("-") and os.path.exists(word):  # noqa: PTH110, as below
            files.append(_in_quotes(word))
            continue
        if "=" not in word and word[:1] not in ("-", "~", "") and not before.startswith("-"):
            what = "there is no file or folder of this name" if command in POSITIONAL else "settings are KEY=VALUE"
            raise UsageError(f"{word}: {what}; see pnfs {command} --help")
        if value and not key.startswith("-") and os.path.exists(value):  # noqa: PTH110, Path raises on long names
            try:
                plain = not parser.parse_override(word).is_sweep_override()
            except HydraException:
                plain = False
            word = word if plain else f"{key}={_in_quotes(value)}"
        found.append(word)
    named = files if len(files) < 2 else [f"[{','.join(files)}]"]
    return [*found, *(f"{POSITIONAL[command]}={value}" for value in named)]


def _in_quotes(text: str) -> str:
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return f'"{escaped}"'

"""Composes a command's configuration from the command line, runs it, and words its errors."""

import importlib
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pnfs.commands.configuration import UsageError, configuration_folder, register_resolvers
from pnfs.commands.devices import take_gpu_if_asked
from pnfs.commands.output import outlive_reader, quiet_libraries
from pnfs.errors import PnfsError

MODULES: Mapping[str, str] = {"import": "import_checkpoint"}
"""Command -> its module, where the command's name cannot be a module's."""

_EXTRAS = ("wandb", "tensorboard", "onnx", "openvino")
"""Optional packages, each of which the extra of its name installs."""

log = logging.getLogger(__name__)


class JobFailed(CompactHydraException):
    """A job of a sweep failed; Hydra prints the message without a traceback.

    Hydra raises the first failure only. Launchers bring all of them back from the processes of their jobs, and an
    exception that arrives is made anew: so each notes its job here, wherever the job ran.
    """

    jobs: ClassVar[list[str]] = []
    """Overrides of the jobs that failed, in order of arrival."""

    def __init__(self, cause: str, job: str) -> None:
        super().__init__(cause, job)
        self.cause = cause
        if job not in self.jobs:
            self.jobs.append(job)

    def __str__(self) -> str:
        return self.cause


class Task:
    """A command as Hydra calls it, in this process or, after it has travelled there, in a launcher's."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.__name__ = command
        # Interpolations are resolved before the task is called, also where a launcher has sent it.
        register_resolvers()

    def __reduce__(self) -> tuple[Callable[..., "Task"], tuple[str]]:
        return Task, (self.command,)

    def __call__(self, config: DictConfig) -> Any:
        try:
            outlive_reader()
            take_gpu_if_asked()
            # Loaded when it runs, so that a command's --help need not wait for torch.
            from pnfs.commands.keys import check_keys

            check_keys(self.command, config)
            module = MODULES.get(self.command, self.command)
            run = importlib.import_module(f"pnfs.commands.{module}").run
            # Lightning's import sets its loggers to talk.
            quiet_libraries()
            return run(config)
        except Exception as error:
            cause = user_error(error)
            sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
            if os.environ.get("PNFS_TRACEBACK") or (cause is None and not sweeps):
                raise
            message = _with_place(error) if cause is None else cause
            log.debug(traceback.format_exc())
            print(f"pnfs {self.command}: {message}", file=sys.stderr)
            if not sweeps:
                sys.exit(1)
            # Hydra goes on to the sweep's next job, and exits with 1 after the last.
            job = " ".join(HydraConfig.get().overrides.task)
            raise JobFailed(message.partition("\n")[0], job) from None


def start(command: str) -> None:
    """Runs a command with the command line that `sys.argv` holds."""
    signal.signal(signal.SIGTERM, _terminate)
    logging.raiseExceptions = (
        False  # A log that cannot be written, on a full disk, is no news of its own.
    )
    # Hydra hands over its errors in place of printing them.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    folder = str(configuration_folder())
    try:
        arguments = with_inputs_named(command, with_globs_expanded(sys.argv[1:]))
        sys.argv[1:] = quoted(arguments)
        hydra.main(version_base="1.3", config_path=folder, config_name=command)(Task(command))()
    except KeyboardInterrupt:
        print(f"pnfs {command}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except JobFailed:
        sys.exit(1)
    except (HydraException, OmegaConfBaseException, PnfsError) as error:
        sys.exit(f"pnfs {command}: {_worded(command, error)}")
    except OSError as error:
        sys.exit(f"pnfs {command}: {user_error(error) or error}")
    except ValueError as error:
        if not str(error).startswith("Config group override"):
            raise
        sys.exit(f"pnfs {command}: {error}; ~GROUP leaves a group out")
    finally:
        for job in JobFailed.jobs:
            print(f"pnfs {command}: failed: {job}", file=sys.stderr)


def _terminate(signum: int, frame: object) -> None:
    print("interrupted", file=sys.stderr)
    sys.exit(128 + signum)


def _worded(command: str, error: BaseException) -> str:
    """What Hydra says of a command line that does not compose."""
    misspelt = re.match(r"Could not override '([^']+)'", str(error))
    if misspelt and "not in struct" in str(error.__cause__):
        from pnfs.commands.keys import known_keys, near_match

        key = misspelt[1]
        near = near_match(key, known_keys(command))
        return f"there is no key {key}{near or f' (+{key}=... adds one, where a class takes it)'}"
    return f"{error}" if error.__cause__ is None else f"{error}\n{error.__cause__}"


def user_error(error: BaseException) -> str | None:
    """What a user can act upon, of an error that Hydra may have wrapped; None if there is nothing."""
    built = ("", "")
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        cause = error.__cause__
        built = (re.findall(r"full_key: (.+)|target '(.+?)'", str(error)) or [("", "")])[-1]
        if str(error).startswith("Error locating target"):
            reason = " ".join(str(cause).split())
            return f"{reason} The folder of a module of your own must be in PYTHONPATH."
        if isinstance(cause, TypeError) and "argument" in str(cause):
            return f"{cause}: a key of the configuration, or of another version's checkpoint, does not fit"
        error = cause
    extra = next((name for name in _EXTRAS if name in str(error)), None)
    if isinstance(error, ImportError) and extra is not None:
        reason = str(error).partition("\n")[0]
        return f"{reason} Install it with: pip install 'pnfs[{extra}]'"
    if isinstance(error, OSError) and error.strerror is not None:
        # What was open when a disk became full has no name: most likely a file in the command's own folder.
        here = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else None
        place = error.filename or here or "the folder of the run"
        return f"{place}: {error.strerror}; free that place, or name another (run_root=…, out=…)"
    if isinstance(error, (PnfsError, OmegaConfBaseException)):
        return str(error)
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        reason = str(error).partition("\n")[0]
        return (
            f"{reason} Where memory is short, fewer workers=… or a smaller batch_size=… need less"
        )
    # No class of ours vouches for these; the last is what Lightning says of arguments that do not go together.
    foreign = isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException"
    if any(built):  # Whatever a class makes of a value that it cannot use.
        return f"{built[0] or built[1]}: {_with_place(error)}"
    if isinstance(error, TypeError) and str(error).startswith("Instantiation: "):
        return " ".join(str(error).split())
    return _with_place(error) if foreign else None


def _with_place(error: BaseException) -> str:
    """An error with its class and the place that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f", {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{error} ({type(error).__name__}{place})"


# --- the command line before Hydra reads it: file names in quotes, globs of recipes as lists

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

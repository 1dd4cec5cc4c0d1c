"""Files that are written whole or not at all, and checkpoints by their file, folder or name."""

import os
from contextlib import suppress
from pathlib import Path

SHIPPED = Path(__file__).parent / "shipped" / "lspet_best.ckpt"
"""The model that comes with the package, which `checkpoint=shipped` names; tools/ship.py makes it."""


def checkpoint_at(path: str | Path, *, last_first: bool = False) -> Path | None:
    """The checkpoint a user means: a file, or the best (else the last) of a run's folder, the other way round with
    `last_first`; "shipped" is the model that comes with the package. None: there is none."""
    path = SHIPPED if str(path) == "shipped" else Path(path).expanduser()
    names = ("last.ckpt", "best.ckpt") if last_first else ("best.ckpt", "last.ckpt")
    inside = (folder / name for folder in (path / "checkpoints", path) for name in names)
    return next((file for file in (path, *inside) if file.is_file()), None)


def write_whole(path: Path, content: bytes | memoryview | str) -> Path:
    """Writes beside the target, then takes its place; an OSError names the file, also where the disk is full.

    Processes that write one file at once do not meet; what killed ones left is removed.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        for left in path.parent.glob("*.part"):
            name, _, process = left.stem.rpartition(".")
            if name == path.name and process.isdecimal() and not _runs(int(process)):
                left.unlink(missing_ok=True)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    return path


def _runs(process: int) -> bool:
    with suppress(PermissionError):  # Another user's.
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True

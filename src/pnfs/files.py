"""Files that are written whole or not at all, and the one that comes with the package."""

import os
from contextlib import suppress
from pathlib import Path

SHIPPED = Path(__file__).parent / "shipped" / "lspet_best.ckpt"
"""The model that comes with the package, which `checkpoint=shipped` names; tools/ship.py makes it."""


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

"""Checkpoints on disk: written whole or not at all, and read only while every byte is as it was written."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, then takes its place.

    Lightning's own goes through the folder of temporary files: where that lies on another file system, the
    target is copied into place, and a kill or a full disk leaves half of it.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        beside = path.with_name(f"{path.name}.part")
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from None


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint; None if they are as `torch.save` wrote them.

    `torch.load` reads the checksums of its entries, and does not compare them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        return str(error)
    return None if entry is None else f"checksum of {entry}"

"""What a user asks predictions for: pictures and videos, in a file, a folder or a glob."""

import glob
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from pnfs.data.images import DataError, require_size
from pnfs.data.readers import located

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_PROPERTIES = (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
SUFFIXES = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)


class InputFile(NamedTuple):
    """A picture or a video."""

    path: Path
    name: str  # Path below the folder that was asked for, with "/"; unique among the inputs.

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_inputs(asked: str | Path | Sequence[str | Path], exclude: Path) -> tuple[list[InputFile], list[Path]]:
    """The files that are meant, folder by folder in natural order (2 before 10), each once.

    `asked` is a file, a folder (searched with all its subfolders), a glob, or a list of these. Files below
    `exclude`, where results go, are left out of folders and globs. Returns pictures and videos; and files of
    folders and globs that are neither, hidden ones apart.

    Raises:
        DataError: Something is not there, or there is neither a picture nor a video in it.
    """
    items = [asked] if isinstance(asked, (str, Path)) else asked
    known: dict[Path, Path] = {}  # File -> the folder that its name is relative to.
    others: dict[Path, None] = {}
    for item in (Path(str(item)).expanduser() for item in items):
        wildcards = [n for n, part in enumerate(item.parts) if set("*?[") & set(part)]
        if item.is_file():  # What is asked for by name is read, or refused when it is.
            known[item.parent.resolve() / item.name] = item.parent.resolve()
            continue
        if item.is_dir():
            folder, found = item, item.rglob("*")
        elif wildcards:
            folder = Path(*item.parts[: wildcards[0]])
            found = map(Path, glob.glob(str(item), recursive=True))  # noqa: PTH207, absolute patterns
        else:
            raise DataError(f"{item}: there is no such file or folder{located(item)}")
        root, files = folder.resolve(), [p for p in found if p.is_file() and not p.name.startswith(".")]
        # Links to files keep their own names; ".." must not lead results out of their folder.
        there = [root / path.relative_to(folder) for path in sorted(files, key=_natural)]
        below = [path for path in there if not path.is_relative_to(exclude.resolve())]
        fitting = dict.fromkeys((p for p in below if p.suffix.lower() in SUFFIXES), root)
        rest = [path for path in below if path not in fitting]
        if not fitting:
            hint = f"; there are {some_of([path.name for path in rest])}" if rest else ""
            what = f"there is neither a picture nor a video in it{hint}; results in {exclude} are not read"
            raise DataError(f"{item}: {what}; known are {', '.join(SUFFIXES)}")
        known |= fitting
        others |= dict.fromkeys(rest)
    if not known:
        raise DataError("there is no input; name a file, a folder, a glob, or a list of these")
    common = Path(os.path.commonpath(list(known.values())))
    return [InputFile(path, path.relative_to(common).as_posix()) for path in known], list(others)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """Names for messages: "a.heic, b.heic, … (7 in all)"."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


def _natural(path: Path) -> list[str]:
    """Sorts folder by folder, and numbers in names by their value."""
    return [re.sub(r"\d+", lambda digits: digits[0].zfill(30), p).casefold() for p in path.parts]


def read_picture(path: Path, upright: bool = True) -> UInt8[np.ndarray, "H W 3"]:
    """A picture in RGB, turned as its camera recorded (EXIF) if `upright`, else as its pixels are stored.

    Raises:
        DataError: It is missing, damaged, cut off, too large, no picture, or one of more than 8 bits a channel.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            picture = Image.open(path)
        with picture:
            require_size(path, *picture.size)
            # Unlike OpenCV, which fills up with grey, Pillow refuses files that end too early.
            picture.load()
            turned = ImageOps.exif_transpose(picture) if upright else picture
            if turned.mode.startswith(("I", "F")):  # Pillow would cut numbers at 255.
                raise DataError(f"{path}: not a picture of 8 bits a channel; save it as one")
            return np.array(turned.convert("RGB"))
    except DataError:
        raise
    # Pillow's decoders meet damaged files with errors of many kinds.
    except Exception as error:
        raise DataError(f"{path}: not a readable picture ({error})") from error


class Video:
    """Frames of a video file, in RGB, upright; `stated_frames` is their number as the container says, or 0.

    Raises:
        DataError: It cannot be opened, holds no frames, or its frames are too large.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        capture = self._opened()
        fps, count, *size = map(capture.get, _PROPERTIES)
        capture.release()
        self.fps = fps if np.isfinite(fps) and fps > 0 else 25.0
        self.stated_frames = max(0, int(count))
        require_size(path, *size)

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The frames; raises DataError after the last readable one if it comes well before the stated end."""
        capture, count = self._opened(), 0
        try:
            while (read := capture.read())[0]:
                count += 1
                yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
        finally:
            capture.release()
        # Containers state how many frames they hold, some only roughly.
        if count < max(1, 0.95 * self.stated_frames):
            text = f"only {count} of {self.stated_frames} frames can be read; the file is damaged or cut off"
            raise DataError(f"{self.path}: {text}")

    def _opened(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not self.path.is_file() or not capture.isOpened():
            capture.release()
            raise DataError(f"{self.path}: not a readable video")
        return capture

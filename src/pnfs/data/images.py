"""Where images come from: files below a folder, read no larger than a crop needs them."""

import io
import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from pnfs.errors import PnfsError

MOST_PIXELS = 100_000_000  # Pixels of the largest image or frame that is decoded (300 MB as RGB).

View = tuple[UInt8[np.ndarray, "h w 3"], Float64[np.ndarray, "2 3"]]
"""A picture in RGB, and the map of its pixels to those of the image that it shows."""


class DataError(PnfsError):
    """A dataset that cannot be used; the message names the file and the record."""


class ImageSource(Protocol):
    """Images by number; small and picklable, so that it can travel to a worker. It may also have
    `view(index, zoom)`: what a crop whose pixels are `zoom` image pixels wide needs."""

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Image `index` in RGB. Raises DataError naming the image if it cannot be had."""
        ...

    def describe(self, index: int) -> str:
        """The image's name for messages."""
        ...


def view_of(images: ImageSource, index: int, zoom: float) -> View:
    """What a crop needs of an image: `view` of sources that have it, the whole image of others."""
    view = getattr(images, "view", None)
    return (images.read(index), np.eye(2, 3)) if view is None else view(index, zoom)


class ImageFiles:
    """Image files below a folder `root`; DataError if a path, or a symbolic link on its way, leaves it.

    Links of folders are followed here, those of files when they are read: asking for each takes seconds.
    """

    def __init__(self, root: Path | str, paths: Sequence[str]) -> None:
        self.root = Path(root)
        # A numpy array: a list of str would be copied page by page into every forked worker.
        self.paths = np.array(paths, dtype=np.str_)
        self._resolved_root = self.root.resolve()
        folders = [os.path.split(path)[0] for path in paths]
        held = {folder: self._holds(self.root / folder) for folder in set(folders)}
        for record, folder in enumerate(folders):
            if not held[folder]:
                raise self._leaves(record)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return self.view(index, 1.0)[0]

    def view(self, index: int, zoom: float) -> View:
        """Image `index` at an eighth, a quarter, half or all of its resolution: a JPEG decoder averages blocks of
        pixels on the way, three times as fast as it decodes all, and the crop has no aliasing."""
        path = self.root / str(self.paths[index])
        if not path.is_file():
            raise DataError(f"{path}: image is missing (record {index})")
        if not self._holds(path):
            raise self._leaves(index)
        content = np.fromfile(path, np.uint8)
        # OpenCV resizes the decoded image of other formats, to a size rounded the other way.
        most = zoom if bytes(content[:2]) == b"\xff\xd8" else 1
        factor = next((factor for factor in (8, 4, 2) if factor <= most), 1)
        image = None
        if len(content):
            require_size(path, *stated_size(content))
            # OpenCV keeps the factor in the greyscale flag's bit, the colour's goes beside it.
            reduced = 0 if factor == 1 else getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{factor}")
            image = cv2.imdecode(content, reduced | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise DataError(f"{path}: not a readable image (record {index})")
        # Pixel u of the reduced image lies in the middle of pixels f u to f u + f - 1.
        shift = (factor - 1) / 2
        return image, np.array([[factor, 0, shift], [0, factor, shift]], np.float64)

    def _holds(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._resolved_root)

    def _leaves(self, record: int) -> DataError:
        return DataError(
            f"{self.root}: image path {str(self.paths[record])!r} (record {record}) leaves the folder; put "
            "the images themselves there, or set root to the folder that holds them"
        )

    def describe(self, index: int) -> str:
        return str(self.paths[index])

    def missing(self) -> list[str]:
        """Paths that are not there, each once, by one listing of each folder."""
        paths = [(path, *os.path.split(path)) for path in np.unique(self.paths).tolist()]
        there = {folder: list_files(self.root / folder) for folder in {p[1] for p in paths}}
        return [path for path, folder, name in paths if name not in there[folder]]


def list_files(folder: Path) -> set[str]:
    """Names of the files in `folder`; none if it does not exist."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if not entry.is_dir()}


def require_size(path: Path, width: float, height: float) -> None:
    """Raises DataError for an image or frame of more than MOST_PIXELS, as its header says."""
    if width * height > MOST_PIXELS:
        raise DataError(
            f"{path}: announces {width:.0f}x{height:.0f} pixels, more than {MOST_PIXELS:,}; store it smaller"
        )


def stated_size(content: UInt8[np.ndarray, " n"]) -> tuple[int, int]:
    """(width, height) in the header of an image file; (0, 0) where it cannot be read."""
    try:
        with Image.open(io.BytesIO(memoryview(content))) as image:  # type: ignore[arg-type]
            return image.size
    except Image.DecompressionBombError:
        return MOST_PIXELS, MOST_PIXELS
    # Pillow's parsers meet damaged files with whatever their byte arithmetic runs into.
    except Exception:
        return 0, 0

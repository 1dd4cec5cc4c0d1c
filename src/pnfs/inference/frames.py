"""From files to pictures and frames with boxes, in order; what cannot be read is reported."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from pnfs.data.images import DataError
from pnfs.inference.boxes import BoxSource
from pnfs.inference.inputs import InputFile, Video, read_picture
from pnfs.inference.predictor import ImageWithBoxes


@dataclass(frozen=True)
class Frame:
    """A picture, or one frame of a video."""

    file: InputFile
    index: int | None
    """Counted from 0; None for a picture."""
    query: ImageWithBoxes
    image_id: int | None
    """The picture's number where its boxes come from."""
    fps: float = 0.0
    """Frames a second of the video."""


def read_frames(
    files: Sequence[InputFile], boxes: BoxSource, report: Callable[[DataError], None]
) -> Iterator[Frame]:
    """All pictures and frames, one by one.

    Args:
        files: What to read.
        boxes: Where the persons are.
        report: Told what cannot be read, or has no known boxes; a video ends there, the rest goes on.
    """
    for file in files:
        try:
            yield from _frames_of(file, boxes)
        except DataError as error:
            report(error)


def count_frames(files: Sequence[InputFile]) -> int:
    """How many frames there are about, for a progress bar; videos state their number roughly."""
    total = 0
    for file in files:
        try:
            total += max(1, Video(file.path).stated_frames) if file.is_video else 1
        except DataError:
            total += 1  # It will be reported when its turn comes.
    return total


def _frames_of(file: InputFile, boxes: BoxSource) -> Iterator[Frame]:
    images: Iterable[tuple[int | None, UInt8[np.ndarray, "H W 3"]]]
    if file.is_video:
        video = Video(file.path)
        images, fps = enumerate(video), video.fps
    else:
        images, fps = [(None, read_picture(file.path, upright=boxes.upright))], 0.0
    for index, image in images:
        found = boxes(image, file, index)
        try:
            query = ImageWithBoxes(image, found.boxes, found.scores)
        except DataError as error:
            raise DataError(f"{file.path}: {error}") from error
        yield Frame(file, index, query, found.image_id, fps)

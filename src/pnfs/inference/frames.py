"""From files to pictures and frames with boxes, in order; what cannot be read is reported."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pnfs.data.images import DataError
from pnfs.inference.boxes import BoxSource
from pnfs.inference.inputs import InputFile, Video, read_picture
from pnfs.inference.poses import ImageWithBoxes


class Frame(NamedTuple):
    """A picture, or one frame of a video."""

    file: InputFile
    index: int | None  # Counted from 0; None for a picture.
    query: ImageWithBoxes
    image_id: int | None  # The picture's number where its boxes come from.
    fps: float = 0.0  # Frames a second of the video.


def read_frames(
    files: Sequence[InputFile], boxes: BoxSource, report: Callable[[DataError], None]
) -> Iterator[Frame]:
    """All pictures and frames, one by one.

    `report` is told what cannot be read, or has no known boxes; a video ends there, the rest goes on.
    """
    for file in files:
        try:
            video = Video(file.path) if file.is_video else None
            images = video or [read_picture(file.path, upright=boxes.upright)]
            for number, image in enumerate(images):
                index = None if video is None else number
                found = boxes(image, file, index)
                try:
                    query = ImageWithBoxes(image, found.boxes, found.scores)
                except DataError as error:
                    raise DataError(f"{file.path}: {error}") from error
                yield Frame(file, index, query, found.image_id, video.fps if video else 0.0)
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

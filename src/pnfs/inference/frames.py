"""From files to predictions: pictures and frames in order, with what could not be read reported."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from pnfs.data.persons import DataError
from pnfs.inference.boxes import BoxSource, FrameBoxes
from pnfs.inference.inputs import InputFile, Video, read_picture
from pnfs.inference.predictor import ImageWithBoxes, Prediction, Predictor


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
            yield from _video_frames(file, boxes) if file.is_video else [_picture(file, boxes)]
        except DataError as error:
            report(error)


def predict_frames(
    predictor: Predictor, frames: Iterable[Frame], *, flip_test: bool = True, maps: bool = False
) -> Iterator[tuple[Frame, Prediction]]:
    """Frames with the poses in them, in order, batched across frames.

    The arguments are those of `Predictor.predict_each`.
    """
    waiting: deque[Frame] = deque()

    def queries() -> Iterator[ImageWithBoxes]:
        for frame in frames:
            waiting.append(frame)
            yield frame.query

    for prediction in predictor.predict_each(queries(), flip_test=flip_test, maps=maps):
        yield waiting.popleft(), prediction


def count_frames(files: Sequence[InputFile]) -> int:
    """How many frames there are about, for a progress bar; videos state their number roughly."""
    total = 0
    for file in files:
        try:
            total += max(1, Video(file.path).stated_frames) if file.is_video else 1
        except DataError:
            total += 1  # It will be reported when its turn comes.
    return total


def _picture(file: InputFile, boxes: BoxSource) -> Frame:
    image = read_picture(file.path, upright=boxes.upright)
    found = boxes(image, file, None)
    return Frame(file, None, _query(file, image, found), found.image_id)


def _video_frames(file: InputFile, boxes: BoxSource) -> Iterator[Frame]:
    video = Video(file.path)
    for index, image in enumerate(video):
        found = boxes(image, file, index)
        yield Frame(file, index, _query(file, image, found), found.image_id, video.fps)


def _query(file: InputFile, image: UInt8[np.ndarray, "H W 3"], found: FrameBoxes) -> ImageWithBoxes:
    try:
        return ImageWithBoxes(image, found.boxes, found.scores)
    except DataError as error:
        raise DataError(f"{file.path}: {error}") from error

"""From files to pictures and frames with boxes, and to poses, in order; what cannot be read is reported."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby, starmap, tee
from typing import Any, NamedTuple

from pnfs.data.images import DataError
from pnfs.inference.boxes import BoxSource
from pnfs.inference.inputs import InputFile, Video, read_picture
from pnfs.inference.poses import ImageWithBoxes, Prediction
from pnfs.inference.predictor import Predictor
from pnfs.inference.tracking import Tracker, carried_box, is_inside


class Frame(NamedTuple):
    """A picture, or one frame of a video."""

    file: InputFile
    index: int | None  # Counted from 0; None for a picture.
    query: ImageWithBoxes
    image_id: int | None  # The picture's number where its boxes come from.
    fps: float = 0.0  # Frames a second of the video.
    carried: bool = (
        False  # Whether boxes of the persons who are followed take the place of the query's.
    )


def read_frames(
    files: Sequence[InputFile], boxes: BoxSource, report: Callable[[DataError], None]
) -> Iterator[Frame]:
    """All pictures and frames, one by one.

    `report` is called with what cannot be read, or has no known boxes; a video ends there, the rest goes on.
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
                fps = video.fps if video else 0.0
                yield Frame(file, index, query, found.image_id, fps, found.carried)
        except DataError as error:
            report(error)


class Poses:
    """Finds the poses in frames, and follows the persons of videos.

    Args:
        predictor: Finds them.
        nms_threshold: See `Prediction.without_duplicates`; None: all poses are kept.
        tracker: Makes the tracker of a video with so many frames a second.
        second_look: Look again at whole pictures, where the joints of the first look were.
        options: Of `Predictor.predict_each`.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        nms_threshold: float | None,
        tracker: Callable[[float], Tracker],
        second_look: bool = False,
        **options: Any,
    ) -> None:
        self.predictor, self.options = predictor, options
        self.nms_threshold, self.second_look = nms_threshold, second_look
        self._new_tracker = tracker
        self.duplicates = self.followed = 0
        """Poses left out as too similar to better ones; persons with an id."""
        self._file: InputFile | None = None

    def of(self, frames: Iterator[Frame]) -> Iterator[tuple[Frame, Prediction]]:
        """The frames, with the boxes they were searched in, and their poses.

        Batches are filled across frames, but where boxes are carried, which takes the poses of the frame before.
        """
        kinds = groupby(frames, key=lambda frame: (frame.carried, frame.query.whole_image))
        for (carried, whole), group in kinds:
            if carried:
                one_by_one = map(self._with_boxes, group)
                looked = chain.from_iterable(
                    self._look([frame], frame.query.whole_image) for frame in one_by_one
                )
            else:
                looked = self._look(group, whole)
            for frame, found in looked:
                yield frame, self._followed(frame, found)

    def _look(self, frames: Iterable[Frame], whole: bool) -> Iterator[tuple[Frame, Prediction]]:
        shown, ahead = tee(frames)
        queries = (frame.query for frame in ahead)
        looked = zip(shown, self.predictor.predict_each(queries, **self.options), strict=True)
        if whole and self.second_look:
            return self._look(starmap(_around_joints, looked), False)
        return looked

    def _with_boxes(self, frame: Frame) -> Frame:
        """With carried boxes if that is wanted and somebody is followed."""
        if not frame.carried or frame.index is None or frame.file != self._file:
            return frame
        image = frame.query.image
        boxes, scores = self._tracker.carried(frame.index, image.shape[:2])
        return frame._replace(query=ImageWithBoxes(image, boxes, scores)) if len(boxes) else frame

    def _followed(self, frame: Frame, found: Prediction) -> Prediction:
        kept = found
        if self.nms_threshold is not None:
            kept = found.without_duplicates(self.nms_threshold)
            self.duplicates += len(found) - len(kept)
        if frame.index is None:
            return kept
        if frame.file != self._file:
            self._file, self._tracker = frame.file, self._new_tracker(frame.fps)
        before = self._tracker.count
        kept = self._tracker.follow(kept, frame.index, carried=frame.carried)
        self.followed += self._tracker.count - before
        return kept


def _around_joints(frame: Frame, found: Prediction) -> Frame:
    """The frame with a box around the pose that was found in the whole picture."""
    image, box = frame.query.image, carried_box(found, 0)
    if (box == found.boxes[0]).all() or not is_inside(box, image.shape[:2]):
        return frame
    return frame._replace(query=ImageWithBoxes(image, box[None]))


def count_frames(files: Sequence[InputFile]) -> int:
    """How many frames there are about, for a progress bar; videos state their number roughly."""
    total = 0
    for file in files:
        try:
            total += max(1, Video(file.path).stated_frames) if file.is_video else 1
        except DataError:
            total += 1  # It will be reported when its turn comes.
    return total

"""Where the persons are: the whole picture, boxes from a COCO-format file, or a detector; frames with boxes."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from jaxtyping import Float32, UInt8

from pnfs.data.coco_format import CROWD, OTHER_CATEGORY, PERSON, Id, named_categories
from pnfs.data.images import DataError
from pnfs.data.readers import Records, read_json
from pnfs.inference.inputs import InputFile, Video, read_picture
from pnfs.inference.poses import ImageWithBoxes

Image = UInt8[np.ndarray, "H W 3"]


class FrameBoxes(NamedTuple):
    """The persons of one picture or frame."""

    boxes: Float32[np.ndarray, "N 4"] | None  # x, y, width, height in px; None: one person fills it.
    scores: Float32[np.ndarray, " N"] | None = None  # How sure each box is; None: 1.
    image_id: int | None = None  # The picture's number where the boxes come from.
    carried: bool = False  # Persons followed take the boxes of their last poses; these are for when nobody is.


NOT_KNOWN = FrameBoxes(np.zeros((0, 4), np.float32), carried=True)


class BoxSource:
    """Says where the persons of a picture, or of frame `frame` (from 0) of a video, are.

    `upright` says whether boxes refer to the picture turned as its camera recorded, or to its stored pixels. Calls
    raise DataError if nothing is known of the picture, or the boxes belong to another one.
    """

    upright = True

    def __call__(self, image: Image, file: InputFile, frame: int | None) -> FrameBoxes:
        raise NotImplementedError(f"{type(self).__name__} defines no __call__")


class Frame(NamedTuple):
    """A picture, or one frame of a video."""

    file: InputFile
    index: int | None  # Counted from 0; None for a picture.
    query: ImageWithBoxes
    image_id: int | None  # The picture's number where its boxes come from.
    fps: float = 0.0  # Frames a second of the video.
    carried: bool = False  # Boxes of the persons who are followed take the place of the query's.


def read_frames(
    files: Sequence[InputFile], boxes: BoxSource, report: Callable[[DataError], None]
) -> Iterator[Frame]:
    """All pictures and frames, one by one.

    `report` is called with what cannot be read, or has no known boxes; a video ends there, the rest goes on.
    """
    for file in files:
        try:
            video = Video(file.path) if file.is_video else None
            for number, image in enumerate(video or [read_picture(file.path, boxes.upright)]):
                index, fps = (None, 0.0) if video is None else (number, video.fps)
                found = boxes(image, file, index)
                query = ImageWithBoxes(image, found.boxes, found.scores)
                yield Frame(file, index, query, found.image_id, fps, found.carried)
        except DataError as error:
            named = str(file.path) in str(error)
            report(error if named else DataError(f"{file.path}: {error}"))


class WholeImage(BoxSource):
    """One person fills each picture, and a video's frames until the person is followed."""

    def __call__(self, image: Image, file: InputFile, frame: int | None) -> FrameBoxes:
        return FrameBoxes(None, carried=frame is not None)


class CocoBoxes(BoxSource):
    """Persons from a COCO-format file of images and annotations, such as what `pnfs predict` wrote.

    Pictures are found by file name: an entry fits a picture whose path ends with it. Frames of a video are entries
    with the video's name as `file_name` and a `frame_id`, counted from 0; frames that are not listed have carried
    boxes, and ids above all others. Boxes are of pictures as stored, unless the file's `info` says "upright".
    Crowds, other categories than the one named "person", boxes without extent and boxes with a score below
    `threshold` (without one it is 1) are left out and counted in `left_out`.

    Raises:
        DataError: A file cannot be read or holds something else, or its categories have no "person".
    """

    def __init__(self, path: Path | str, *, threshold: float = 0.0) -> None:
        self.path = where = Path(path).expanduser()
        content: Any = read_json(where)
        if not (isinstance(content, dict) and {"images", "annotations"} <= content.keys()):
            raise DataError(f"{where}: no COCO annotations (an object with images and annotations)")
        info = content.get("info")
        self.upright = isinstance(info, dict) and info.get("upright") is True
        images = Records(where, content["images"], "images", lambda row, _: f"image {row}")
        told: dict[str, Any] = {"id": Id, "file_name": str, "width": Any, "height": Any}
        told["frame_id"] = Id | None  # type: ignore[operator]
        # Last part of a name, and frame -> its images: name, id, size.
        self._images: dict[tuple[str, int | None], list[tuple[str, int, tuple]]] = defaultdict(list)
        for id_, name, *size, frame in zip(*map(images.column, told, told.values()), strict=True):
            last = name.replace("\\", "/").rpartition("/")[2]
            self._images[last, frame].append((name.removeprefix("./"), id_, tuple(size)))
        named = named_categories(where, content.get("categories"), "person")
        person, records = named[0]["id"] if named else PERSON, content["annotations"]
        table = Records(where, records, "the list of boxes", lambda row, r: f"record {r.get('id', row)}")
        boxes, scores = table.numbers("bbox", 4), table.numbers("score", missing=1.0)
        image_ids = np.array(table.column("image_id", Id), np.int64)
        known = [id_ for entries in self._images.values() for _, id_, _ in entries]
        self._new_ids = itertools.count(max(known, default=0) + 1)
        table.require(np.isin(image_ids, known), "its image_id is not among the images")
        reasons = {
            OTHER_CATEGORY: table.numbers("category_id", missing=person) != person,
            CROWD: table.numbers("iscrowd", missing=0) != 0,
            # Some annotations hold boxes without extent, which no person can be in.
            "without extent": ~(boxes[:, 2:] > 0).all(-1),
            f"with a score below {threshold}": scores < threshold,
        }
        kept, self.left_out = np.full(len(boxes), True), {}
        for reason, rows in reasons.items():
            if count := int((kept & rows).sum()):
                self.left_out[reason] = count
            kept &= ~rows
        self._boxes, self._scores = boxes[kept].astype(np.float32), scores[kept].astype(np.float32)
        self._image_ids = image_ids[kept]

    def __call__(self, image: Image, file: InputFile, frame: int | None) -> FrameBoxes:
        name, full = file.path.name, f"/{file.path.as_posix()}"
        entries = self._images.get((name, frame), [])
        if not entries and frame is not None and any(n == name and f is not None for n, f in self._images):
            return NOT_KNOWN._replace(image_id=next(self._new_ids))
        if not entries:
            kind = "picture" if frame is None else "video with a frame_id"
            raise DataError(f"{file.path}: {self.path} names no such {kind}, so no boxes are known")
        # File names may carry folders that a copy has lost; then the last part must be unique.
        fitting = [entry for entry in entries if full.endswith(f"/{entry[0]}")] or entries
        longest = max(len(entry) for entry, *_ in fitting)
        found = {id_: size for entry, id_, size in fitting if len(entry) == longest}
        if len(found) > 1:
            raise DataError(f"{file.path}: {self.path} names several pictures {name}")
        ((id_, stated),) = found.items()
        size = image.shape[1::-1]
        if all(isinstance(side, int) for side in stated) and stated != size:
            here, there = (f"{width}x{height} px" for width, height in (size, stated))
            text = f"has {here}, but in {self.path} it has {there}; the boxes belong to another picture"
            raise DataError(f"{file.path}: {text}")
        rows = self._image_ids == id_
        return FrameBoxes(self._boxes[rows], self._scores[rows], id_)


class PersonDetector(BoxSource):
    """torchvision's detector of this name; persons who score less than `threshold` are left out.

    `weights` is a file; None: where torchvision keeps downloads. `download`, given their size and URL, says
    whether weights that are not there are downloaded. A video is looked at in `every` n-th frame; between them
    boxes are carried.

    Raises:
        DataError: There is no such detector, or its weights are not there or do not fit.
    """

    def __init__(
        self,
        name: str = "fasterrcnn_resnet50_fpn_v2",
        *,
        weights: Path | str | None = None,
        download: Callable[[str], bool] = lambda what: False,
        threshold: float = 0.5,
        every: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        known = torchvision.models.list_models(torchvision.models.detection)
        if name not in known:
            raise DataError(f"unknown detector {name!r}; there are {', '.join(known)}")
        path = _downloaded(name, download) if weights is None else Path(weights).expanduser()
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
            model.load_state_dict(state)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path}: these are no weights of {name} ({reason})") from error
        self.threshold, self.every, self.device = threshold, every, torch.device(device)
        self.model = model.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, image: Image, file: InputFile, frame: int | None) -> FrameBoxes:
        if frame is not None and frame % self.every:
            return NOT_KNOWN
        pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() / 255
        (found,) = self.model([pixels])
        corners, scores = found["boxes"], found["scores"]
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], -1)
        keep = (found["labels"] == PERSON) & (scores >= self.threshold) & (boxes[:, 2:] > 0).all(-1)
        return FrameBoxes(boxes[keep].cpu().numpy(), scores[keep].cpu().numpy())


def _downloaded(name: str, download: Callable[[str], bool]) -> Path:
    """Where torchvision keeps the detector's weights; they are downloaded if need be and `download` allows it."""
    weights: Any = torchvision.models.get_model_weights(name)
    url = weights.DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    what = f"{weights.DEFAULT.meta['_file_size']:.0f} MB from {url}"
    others = "detector.weights=<file> names a copy; or take boxes=image or boxes=<COCO-format file>"
    if not download(what):
        raise DataError(
            f"the person detector has no weights at {path}; detector.download=true downloads them "
            f"({what}), {others}"
        )
    try:
        # The URL holds the beginning of the file's SHA-256; only a file that fits is kept.
        torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except Exception as error:
        raise DataError(f"{url} could not be downloaded to {path} ({error}); {others}") from error
    return path

"""Where the persons are: the whole picture, boxes from a COCO-format file, or a detector."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torchvision
from jaxtyping import Float32, UInt8

from pnfs.data.coco_format import CROWD, OTHER_CATEGORY, PERSON, named_categories
from pnfs.data.images import DataError
from pnfs.data.readers import number_column, read_json, require_records, require_rows
from pnfs.inference.inputs import InputFile


@dataclass(frozen=True)
class FrameBoxes:
    """The persons of one picture or frame."""

    boxes: Float32[np.ndarray, "N 4"] | None
    """x, y, width, height in pixels; None: one person fills the image."""
    scores: Float32[np.ndarray, " N"] | None = None
    """How sure each box is; None: 1."""
    image_id: int | None = None
    """The picture's number where the boxes come from, so that results can be compared."""


class BoxSource(Protocol):
    """Says where the persons of a picture are."""

    upright: bool
    """Whether boxes refer to the picture turned as its camera recorded, or to its stored pixels."""

    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], file: InputFile, frame: int | None
    ) -> FrameBoxes:
        """The persons of a picture, or of frame `frame` (from 0) of a video.

        Raises:
            DataError: Nothing is known of this picture, or the boxes belong to another one.
        """
        ...


class WholeImage:
    """One person fills each picture."""

    upright = True

    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], file: InputFile, frame: int | None
    ) -> FrameBoxes:
        return FrameBoxes(None)


@dataclass
class _Listed:
    """A picture of the file, and its boxes."""

    id: int
    size: tuple[int, int] | None = None
    boxes: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


class CocoBoxes:
    """Persons from a COCO-format file: annotations, detections, or what `pnfs predict` wrote.

    Pictures are found by file name: an entry fits a picture whose path ends with it. A list of
    detections knows pictures by number alone; it fits names that are this number
    (000000000785.jpg), or those of `names`. Frames of a video are entries with the video's name as
    `file_name` and a `frame_id`, counted from 0. The id of the category "person" is that of the
    file's `categories`, or of those of `names`, or 1 where there are none. Crowds, other categories
    and boxes without extent are left out and counted in `left_out`.

    Args:
        path: The file.
        threshold: Boxes with a lower score are left out; a box without score has 1.
        names: COCO-format annotations that give the file names for a list of detections.

    Raises:
        DataError: A file cannot be read or holds something else, or its categories have no "person".
    """

    upright = False
    left_out: Mapping[str, int]
    """Boxes of the file that no picture gets, by reason."""

    def __init__(
        self, path: Path | str, *, threshold: float = 0.0, names: Path | str | None = None
    ) -> None:
        self.path = where = Path(path).expanduser()
        content = described = read_json(where)
        if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
            records = content["annotations"]
        elif isinstance(content, list):
            records, described = content, {}
        else:
            raise DataError(
                f"{where}: neither COCO annotations (an object with images and annotations) nor "
                "detections (a list)"
            )
        if isinstance(content, list) and names is not None:
            where = Path(names).expanduser()
            described = read_json(where)
            if not isinstance(described, dict) or "images" not in described:
                raise DataError(f"{where}: holds no images, whose names were to be taken from it")
        # Pictures that a list of detections does not mention have no persons.
        self._lists_all = "images" in described
        self._images: dict[int, _Listed] = {}
        self._by_name: dict[tuple[str, int | None], list[tuple[str, int]]] = defaultdict(list)
        for image in require_records(where, described.get("images", []), "images"):
            self._add_image(where, image)
        named = named_categories(where, described.get("categories"), "person")
        category = named[0]["id"] if named else PERSON
        what = "annotations" if isinstance(content, dict) else "detections"
        self._add_boxes(require_records(self.path, records, what), threshold, category)

    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], file: InputFile, frame: int | None
    ) -> FrameBoxes:
        listed = self._find(file, frame)
        if listed is None:
            return FrameBoxes(np.zeros((0, 4), np.float32))
        height, width = image.shape[:2]
        if listed.size not in (None, (height, width)):
            raise DataError(
                f"{file.path}: has {width}x{height} px, but in {self.path} it has "
                f"{listed.size[1]}x{listed.size[0]}; the boxes belong to another picture"
            )
        boxes = np.array(listed.boxes, np.float32).reshape(-1, 4)
        return FrameBoxes(boxes, np.array(listed.scores, np.float32), listed.id)

    def _find(self, file: InputFile, frame: int | None) -> _Listed | None:
        entries = self._by_name.get((file.path.name, frame), [])
        full = f"/{file.path.as_posix()}"
        # File names may carry folders that a copy has lost; then the last part must be unique.
        fitting = [entry for entry in entries if full.endswith(f"/{entry[0]}")] or entries
        if fitting:
            longest = max(len(name) for name, _ in fitting)
            ids = {id_ for name, id_ in fitting if len(name) == longest}
            if len(ids) > 1:
                raise DataError(f"{file.path}: {self.path} names several pictures {file.path.name}")
            return self._images[ids.pop()]
        if self._lists_all:
            if frame is not None:
                return None
            raise DataError(
                f"{file.path}: {self.path} names no such picture, so no boxes are known"
            )
        if frame is not None or not file.path.stem.isdecimal():
            raise DataError(
                f"{file.path}: {self.path} knows pictures by number alone and this name is none; "
                "give the annotations that hold the names (box_names=<file>)"
            )
        return self._images.get(int(file.path.stem))

    def _add_image(self, where: Path, record: Mapping[str, Any]) -> None:
        id_, name, frame = (record.get(key) for key in ("id", "file_name", "frame_id"))
        if not (isinstance(id_, int) and isinstance(name, str) and isinstance(frame, int | None)):
            raise DataError(
                f"{where}: an image needs id (a number) and file_name, and may have frame_id (a number): "
                f"{record!r:.80}"
            )
        height, width = record.get("height"), record.get("width")
        size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        self._images[id_] = _Listed(id_, size)
        last = name.replace("\\", "/").rpartition("/")[2]
        self._by_name[last, frame].append((name.removeprefix("./"), id_))

    def _add_boxes(self, records: list[dict[str, Any]], threshold: float, category: int) -> None:
        left_out: Counter[str] = Counter()
        persons = []
        for record in records:
            if record.get("category_id", category) != category:
                left_out[OTHER_CATEGORY] += 1
            elif record.get("iscrowd"):
                left_out[CROWD] += 1
            else:
                persons.append({"score": 1.0, **record})

        def label(row: int) -> str:
            return f"record {persons[row].get('id', row)}"

        boxes = number_column(self.path, persons, "bbox", (4,), label)
        scores = number_column(self.path, persons, "score", (), label)
        image_ids = number_column(self.path, persons, "image_id", (), label)
        finite = np.asarray(np.isfinite(np.column_stack([boxes, scores])).all(-1))
        require_rows(self.path, finite, label, "bbox or score is not finite")
        whole = (image_ids == np.round(image_ids)) & (np.abs(image_ids) < 2**53)
        require_rows(self.path, whole, label, "image_id is not a whole number")
        if self._lists_all:
            known = np.isin(image_ids, list(self._images))
            require_rows(self.path, known, label, "its image_id is not among the images")
        for box, score, id_ in zip(
            boxes.tolist(), scores.tolist(), image_ids.astype(int).tolist(), strict=True
        ):
            # Some annotations hold boxes without extent, which no person can be in.
            if min(box[2:]) <= 0:
                left_out["without extent"] += 1
            elif score < threshold:
                left_out[f"with a score below {threshold}"] += 1
            else:
                listed = self._images.setdefault(id_, _Listed(id_))
                listed.boxes.append(box)
                listed.scores.append(score)
        self.left_out = dict(left_out)


class PersonDetector:
    """torchvision's detectors, with weights that are on this machine.

    Args:
        name: torchvision's name of a detector.
        weights: File with the detector's weights; None: where torchvision keeps downloads.
        threshold: Persons with a lower score are left out.
        device: Where it runs.

    Raises:
        DataError: There is no such detector, or its weights are not there or do not fit.
    """

    upright = True

    def __init__(
        self,
        name: str = "fasterrcnn_resnet50_fpn_v2",
        *,
        weights: Path | str | None = None,
        threshold: float = 0.5,
        device: torch.device | str = "cpu",
    ) -> None:
        known = torchvision.models.list_models(torchvision.models.detection)
        if name not in known:
            raise DataError(f"unknown detector {name!r}; there are {', '.join(known)}")
        path = self.default_weights(name) if weights is None else Path(weights).expanduser()
        if not path.is_file():
            raise DataError(
                f"the person detector has no weights at {path}; download them from "
                f"{_published(name).url} and name the file (detector.weights=<file>), or take "
                "boxes=image or boxes=<COCO-format file>"
            )
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
            model.load_state_dict(state)
        except Exception as error:
            raise DataError(
                f"{path}: these are no weights of {name} ({str(error).splitlines()[0]})"
            ) from error
        self.threshold = threshold
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)

    @staticmethod
    def default_weights(name: str) -> Path:
        """Where torchvision would have put the detector's weights."""
        return Path(torch.hub.get_dir()) / "checkpoints" / _published(name).url.rpartition("/")[2]

    @torch.inference_mode()
    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], file: InputFile, frame: int | None
    ) -> FrameBoxes:
        pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() / 255
        (found,) = self.model([pixels])
        keep = (found["labels"] == PERSON) & (found["scores"] >= self.threshold)
        corners, scores = found["boxes"][keep], found["scores"][keep]
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], -1)
        usable = (boxes[:, 2:] > 0).all(-1)
        return FrameBoxes(boxes[usable].cpu().numpy(), scores[usable].cpu().numpy())


def _published(name: str) -> torchvision.models.WeightsEnum:
    return torchvision.models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]

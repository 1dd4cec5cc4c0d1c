"""What predictions leave behind: overlays, one COCO-format file, a table of joints."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pnfs.body import Skeleton
from pnfs.data.coco_format import PERSON
from pnfs.errors import PnfsError
from pnfs.files import write_whole
from pnfs.inference.boxes import Frame
from pnfs.inference.inputs import SUFFIXES, InputFile
from pnfs.inference.poses import Prediction
from pnfs.inference.predictor import JOINT_THRESHOLD
from pnfs.viz.poses import draw_persons
from pnfs.viz.style import save_image

RESULT_FILE, TABLE_FILE = "keypoints.json", "keypoints.csv"
_COLUMNS = ("file", "frame", "time_s", "person", "joint", "x", "y", "score")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


class ResultFolder:
    """Overlays, `keypoints.json` and `keypoints.csv`; complete also after an interruption.

    An overlay has the name of its picture or video below `overlays/`; ".png" is added to a picture of
    another format than PNG and JPEG, ".mp4" to a video of another format.

    `keypoints.json` is a COCO-format dataset, which pycocotools loads and `pnfs predict` reads boxes from. A
    joint's flag is 2 where it scores `score_threshold` or more, else 1; `keypoint_scores` holds the scores
    themselves, `score` the person's. Frames of a video are images with `video_id` and `frame_id` (from 0), and
    the video's name as `file_name`; `track_id` tells the video's persons apart. `keypoints.csv` has the same
    numbers, a joint a row; `person` is the track, or in a picture the place among its persons, from 1.

    Joints that score less than `score_threshold` are drawn hollow. `info` is what the numbers depend on (runtime,
    smoothing).
    """

    def __init__(
        self,
        folder: Path,
        *,
        skeleton: Skeleton,
        score_threshold: float = JOINT_THRESHOLD,
        overlays: bool = True,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.skeleton, self.score_threshold = folder, skeleton, score_threshold
        self.overlays = overlays
        self.images: list[dict[str, Any]] = []
        self.persons: list[dict[str, Any]] = []
        self._videos: list[dict[str, Any]] = []
        self._rows: list[tuple[Any, ...]] = []
        self._info = {"description": f"poses predicted by pnfs, skeleton {skeleton.name}", **(info or {})}
        self._writer: tuple[Path, cv2.VideoWriter] | None = None

    def __enter__(self) -> "ResultFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._close_video()
        # COCO counts joints from 1 here.
        limbs = [[i + 1 for i in self.skeleton.indices(limb)] for limb in self.skeleton.limbs]
        person = {"id": PERSON, "name": "person", "supercategory": "person"}
        content = {
            "info": self._info,
            "categories": [person | {"keypoints": list(self.skeleton.joints), "skeleton": limbs}],
            "videos": self._videos,
            "images": self.images,
            "annotations": self.persons,
        }
        write_whole(self.folder / RESULT_FILE, json.dumps(content, allow_nan=False))
        table = pd.DataFrame(self._rows, columns=_COLUMNS)
        write_whole(self.folder / TABLE_FILE, table.to_csv(index=False, lineterminator="\n"))

    def add(self, frame: Frame, prediction: Prediction) -> None:
        """Takes in the poses of one picture or frame; frames of a video come one after another."""
        name, (height, width) = frame.file.name, frame.query.image.shape[:2]
        # Sources of boxes know all their pictures by number, or none.
        image_id = len(self.images) + 1 if frame.image_id is None else frame.image_id
        size = {"width": width, "height": height}
        image, place = {"id": image_id, "file_name": name, **size}, ("", "")
        if frame.index is not None:
            if not self._videos or self._videos[-1]["name"] != name:
                number = len(self._videos) + 1
                self._videos.append({"id": number, "name": name, **size, "fps": frame.fps})
            image |= {"video_id": self._videos[-1]["id"], "frame_id": frame.index}
            place = frame.index, round(frame.index / frame.fps, 4)
        self.images.append(image)
        for n in range(len(prediction)):
            ids: dict[str, Any] = {"id": len(self.persons) + 1, "image_id": image_id}
            if prediction.track_ids is not None:
                ids["track_id"] = int(prediction.track_ids[n])
            person = ids | self._person(prediction, n)
            self.persons.append(person)
            number, xy = person.get("track_id", n + 1), person["keypoints"]
            joints = zip(self.skeleton.joints, xy[::3], xy[1::3], person["keypoint_scores"], strict=True)
            self._rows += [(name, *place, number, *joint) for joint in joints]
        if self.overlays:
            self._write_overlay(frame, prediction)

    def _person(self, prediction: Prediction, n: int) -> dict[str, Any]:
        joints, scores = prediction.joints[n].astype(float), prediction.scores[n].astype(float)
        box = prediction.boxes[n].astype(float)
        flags = np.where(scores >= self.score_threshold, 2, 1).tolist()
        pairs = zip(joints.round(2).tolist(), flags, strict=True)
        return {
            "category_id": PERSON,
            "iscrowd": 0,
            "bbox": box.round(2).tolist(),
            "area": round(float(box[2] * box[3]), 2),
            "num_keypoints": len(joints),
            "keypoints": [number for xy, flag in pairs for number in (*xy, flag)],
            "keypoint_scores": scores.round(4).tolist(),
            "box_score": round(float(prediction.box_scores[n]), 4),
            "score": round(float(prediction.person_scores[n]), 4),
        }

    def _write_overlay(self, frame: Frame, prediction: Prediction) -> None:
        picture = draw_persons(
            frame.query.image,
            prediction.joints,
            skeleton=self.skeleton,
            scores=prediction.scores,
            person_scores=prediction.person_scores,
            boxes=prediction.boxes,
            ids=prediction.track_ids,
            draw_boxes=not frame.query.whole_image,
            score_threshold=self.score_threshold,
        )
        path = self.folder / "overlays" / self._overlay_name(frame.file)
        if frame.index is None:
            save_image(path, picture)
            return
        if self._writer is None or self._writer[0] != path:
            self._close_video()
            path.parent.mkdir(parents=True, exist_ok=True)
            # MPEG-4 part 2, which OpenCV writes everywhere.
            code, size = cv2.VideoWriter.fourcc(*"mp4v"), picture.shape[1::-1]
            self._writer = path, cv2.VideoWriter(str(path), code, frame.fps, size)
            if not self._writer[1].isOpened():
                raise PnfsError(f"{path}: the video cannot be written; name another folder (out=…)")
        self._writer[1].write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def _overlay_name(self, file: InputFile) -> str:
        """The overlay's name, with an ending more where the input's is another, or could be one made up here."""
        suffixes = (".mp4",) if file.is_video else _PICTURE_SUFFIXES
        usual = file.path.suffix.lower() in suffixes and Path(file.path.stem).suffix.lower() not in SUFFIXES
        return file.name if usual else file.name + suffixes[0]

    def _close_video(self) -> None:
        if self._writer is not None:
            self._writer[1].release()
            self._writer = None

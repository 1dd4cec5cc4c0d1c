"""What predictions leave behind: overlays, one COCO-format file, score maps as pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from pnfs.body import Skeleton
from pnfs.data.coco_format import PERSON
from pnfs.inference.frames import Frame
from pnfs.inference.inputs import InputFile
from pnfs.inference.predictor import JOINT_THRESHOLD, Prediction
from pnfs.viz.poses import draw_persons
from pnfs.viz.sheets import score_map_sheet
from pnfs.viz.style import save_image

RESULT_FILE = "keypoints.json"
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


class CocoKeypoints:
    """Collects poses as a COCO-format dataset, which pycocotools loads and `pnfs predict` reads boxes from.

    A joint's flag is 2 where it scores `threshold` or more, else 1; `keypoint_scores` holds the
    scores themselves, `score` the person's. Frames of a video are images with `video_id` and
    `frame_id` (from 0), and the video's name as `file_name`.

    Args:
        skeleton: Whose joints they are.
        threshold: Lowest score of flag 2.
        computed: Runtime and precision of the network, for the file's "info".
    """

    def __init__(
        self,
        skeleton: Skeleton,
        threshold: float = JOINT_THRESHOLD,
        computed: Mapping[str, str] | None = None,
    ) -> None:
        self.skeleton = skeleton
        self.computed = dict(computed or {})
        self.threshold = threshold
        self.images: list[dict[str, Any]] = []
        self.videos: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, frame: Frame, prediction: Prediction) -> None:
        """Takes in the poses of one picture or frame; those of a video come one after another."""
        height, width = frame.query.image.shape[:2]
        # Sources of boxes know all their pictures by number, or none.
        image_id = len(self.images) + 1 if frame.image_id is None else frame.image_id
        image = {"id": image_id, "file_name": frame.file.name, "width": width, "height": height}
        if frame.index is not None:
            image |= {"video_id": self._video_id(frame), "frame_id": frame.index}
        self.images.append(image)
        for n in range(len(prediction)):
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image_id,
                    **self._person(prediction, n),
                }
            )

    def _video_id(self, frame: Frame) -> int:
        if not self.videos or self.videos[-1]["name"] != frame.file.name:
            height, width = frame.query.image.shape[:2]
            self.videos.append(
                {
                    "id": len(self.videos) + 1,
                    "name": frame.file.name,
                    "width": width,
                    "height": height,
                    "fps": frame.fps,
                }
            )
        return self.videos[-1]["id"]

    def _person(self, prediction: Prediction, n: int) -> dict[str, Any]:
        joints, scores = prediction.joints[n].astype(float), prediction.scores[n].astype(float)
        box = prediction.boxes[n].astype(float)
        keypoints: list[float | int] = []
        for (x, y), score in zip(joints.round(2).tolist(), scores.tolist(), strict=True):
            keypoints += [x, y, 2 if score >= self.threshold else 1]
        return {
            "category_id": PERSON,
            "iscrowd": 0,
            "bbox": box.round(2).tolist(),
            "area": round(float(box[2] * box[3]), 2),
            "num_keypoints": len(joints),
            "keypoints": keypoints,
            "keypoint_scores": scores.round(4).tolist(),
            "box_score": round(float(prediction.box_scores[n]), 4),
            "score": round(float(prediction.person_scores[n]), 4),
        }

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        category = {
            "id": PERSON,
            "name": "person",
            "supercategory": "person",
            "keypoints": list(self.skeleton.joints),
            # COCO counts joints from 1 here.
            "skeleton": [
                [i + 1 for i in self.skeleton.indices(limb)] for limb in self.skeleton.limbs
            ],
        }
        content = {
            "info": {
                "description": f"poses predicted by pnfs, skeleton {self.skeleton.name}",
                **self.computed,
            },
            "categories": [category],
            "videos": self.videos,
            "images": self.images,
            "annotations": self.annotations,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content, allow_nan=False))
        partial.replace(path)


class ResultFolder:
    """Overlays, `keypoints.json` and, if wanted, score maps; complete also after an interruption.

    An overlay has the name of its picture or video below `overlays/`; ".png" is added to a picture of
    another format than PNG and JPEG, ".mp4" to a video of another format. Score maps lie below
    `score_maps/`, a folder for each picture, a sheet for each person.

    Args:
        folder: Where to; made if needed.
        skeleton: Whose joints are written.
        computed: Runtime and precision of the network, for `keypoints.json`.
        score_threshold: Joints that score less are drawn hollow.
        overlays: Whether overlays are written.
        score_maps: Whether score maps are written; predictions must hold them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        skeleton: Skeleton,
        score_threshold: float = JOINT_THRESHOLD,
        overlays: bool = True,
        score_maps: bool = False,
        computed: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.skeleton = skeleton
        self.score_threshold = score_threshold
        self.overlays = overlays
        self.score_maps = score_maps
        self.keypoints = CocoKeypoints(skeleton, score_threshold, computed)
        self._video: _VideoWriter | None = None
        self._names: dict[str, str] = {}

    def __enter__(self) -> "ResultFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close_video()
        self.keypoints.write(self.folder / RESULT_FILE)

    def add(self, frame: Frame, prediction: Prediction) -> None:
        """Takes in the poses of one picture or frame; frames of a video come one after another."""
        self.keypoints.add(frame, prediction)
        if self.overlays:
            self._write_overlay(frame, self._overlay(frame, prediction))
        if self.score_maps:
            self._write_maps(frame, prediction)

    def _overlay(self, frame: Frame, prediction: Prediction) -> UInt8[np.ndarray, "H W 3"]:
        return draw_persons(
            frame.query.image,
            prediction.joints,
            skeleton=self.skeleton,
            scores=prediction.scores,
            person_scores=prediction.person_scores,
            boxes=prediction.boxes,
            draw_boxes=not frame.query.whole_image,
            score_threshold=self.score_threshold,
        )

    def _write_overlay(self, frame: Frame, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        path = self.folder / "overlays" / self._name(frame.file)
        if frame.index is None:
            save_image(path, picture)
            return
        if self._video is None or self._video.path != path:
            self._close_video()
            self._video = _VideoWriter(path, frame.fps, picture.shape[:2])
        self._video.add(picture)

    def _name(self, file: InputFile) -> str:
        """The overlay's name; a made-up ending that another input has already gets one more."""
        suffixes = (".mp4",) if file.is_video else _PICTURE_SUFFIXES
        ending = suffixes[0]
        name = file.name if file.path.suffix.lower() in suffixes else file.name + ending
        while self._names.setdefault(name, file.name) != file.name:
            name += ending
        return name

    def _write_maps(self, frame: Frame, prediction: Prediction) -> None:
        if prediction.maps is None:
            return
        maps = prediction.maps
        shown, names = (
            (maps.joint_maps, self.skeleton.joints)
            if maps.part_maps is None
            else (maps.part_maps, maps.names)
        )
        folder = self.folder / "score_maps" / frame.file.name
        prefix = "" if frame.index is None else f"frame_{frame.index:06d}_"
        for n, crop in enumerate(maps.crops):
            sheet = score_map_sheet(crop, shown[n], names)
            save_image(folder / f"{prefix}person_{n:03d}.png", sheet)

    def _close_video(self) -> None:
        if self._video is not None:
            self._video.close()
            self._video = None


class _VideoWriter:
    """An MP4 video (MPEG-4 part 2, which OpenCV writes everywhere)."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path), code, fps, (size[1], size[0]))
        if not self._writer.isOpened():
            raise OSError(f"{path}: the video cannot be written")

    def add(self, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()

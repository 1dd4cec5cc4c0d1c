"""Prints what the shipped model finds in whole pictures and videos, beside what it finds in labelled boxes.

python experiments/lspet/boxes.py LSPET_FOLDER > experiments/lspet/boxes.md
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

import pnfs
from pnfs.data.datasets.lsp import LSPET
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.inference.boxes import Frame
from pnfs.inference.inputs import InputFile
from pnfs.inference.poses import ImageWithBoxes
from pnfs.inference.tracking import Poses, Tracker

PICTURES, VIDEOS, FRAMES, SIZE, FPS = 80, 30, 20, (320, 240), 25
THRESHOLD = 0.2
HEAD = ("neck", "head_top")

Shown = tuple[np.ndarray, np.ndarray, np.ndarray, float]
"""A picture, the joints in it (K, 2) in px, which of them are labelled, and the torso's length in px."""


def picture(persons: Persons, row: int) -> Shown:
    labelled = persons.visibility[row] > UNLABELLED
    image = persons.images.read(int(persons.image_index[row]))
    return image, persons.joints[row], labelled, float(persons.reference_length[row])


def pan(persons: Persons, row: int) -> Iterator[Shown]:
    """Frames of a camera that moves over a photograph; the person is about half as high as the frame."""
    image, joints, labelled, torso = picture(persons, row)
    width, height = SIZE
    for turn in 2 * np.pi * np.arange(FRAMES) / FRAMES:
        zoom = 0.55 * 1.25 * height / persons.box_size[row].max() * (1 + 0.2 * np.sin(turn))
        place = np.array([width / 2 + 60 * np.sin(turn + 1), height / 2 + 15 * np.cos(turn)])
        shift = place - zoom * persons.center[row]
        matrix = np.column_stack([zoom * np.eye(2), shift])
        frame = cv2.warpAffine(image, matrix, SIZE, borderMode=cv2.BORDER_REPLICATE)
        yield frame, zoom * joints + shift, labelled, zoom * torso


def box_of(joints: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    low, high = joints[labelled].min(0), joints[labelled].max(0)
    return np.concatenate([low, high - low])[None]


def limbs_found(poses: Poses, shown: list[Shown], *, video: str = "", boxed: bool) -> tuple[int, int]:
    """How many of the limbs' joints are right, and how many there are; no pose is no joint."""
    file, limbs = InputFile(Path(video), video), [name not in HEAD for name in poses.predictor.skeleton.joints]
    frames = (
        Frame(file, n if video else None, ImageWithBoxes(image, box_of(joints, labelled) if boxed else None),
              None, FPS, carried=bool(video) and not boxed)
        for n, (image, joints, labelled, _) in enumerate(shown)
    )  # fmt: skip
    right = total = 0
    for (_, found), (_, joints, labelled, torso) in zip(poses.of(frames), shown, strict=True):
        counted = labelled & limbs
        total += int(counted.sum())
        if len(found):
            errors = np.linalg.norm(found.joints[0] - joints, axis=-1)[counted]
            right += int((errors < THRESHOLD * torso).sum())
    return right, total


def main() -> None:
    persons, predictor = LSPET(sys.argv[1]).persons("val"), pnfs.load("shipped", device="cpu")
    measurable = np.flatnonzero(np.isfinite(persons.reference_length))
    rows = np.random.default_rng(0).permutation(measurable).tolist()
    pictures = [picture(persons, row) for row in rows[:PICTURES]]
    print(
        "# The shipped model without labelled boxes",
        "",
        "Written by `python experiments/lspet/boxes.py`: the limbs' joints that are right (PCK@0.2), in percent,",
        f"on {PICTURES} validation pictures of LSPET as they are, and in {VIDEOS} videos of {FRAMES} frames,",
        "drawn pans over such pictures; in a video boxes are carried from frame to frame. Joints of persons",
        "who are not found count as wrong.",
        "",
        "| boxes | pictures | videos |",
        "|---|---:|---:|",
        sep="\n",
    )
    ways = {
        "whole picture, or first frame": (False, False),
        "the same, then around the joints found (`second_look`)": (True, False),
        "around the labelled joints": (False, True),
    }
    for how, (second_look, boxed) in ways.items():
        make = partial(Poses, predictor, nms_threshold=None, tracker=Tracker, second_look=second_look)
        right, total = limbs_found(make(), pictures, boxed=boxed)
        videos = [limbs_found(make(), list(pan(persons, n)), video=str(n), boxed=boxed) for n in rows[:VIDEOS]]
        found, shown = np.sum(videos, 0)
        print(f"| {how} | {100 * right / total:.0f} | {100 * found / shown:.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""People written to disk in the layouts of MPII's, COCO's and LSP's users, for tests of the loaders."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io
import torch
from torchmetrics import MetricCollection

from pnfs.body import COCO, MPII
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.lsp import LSP, LSPET
from pnfs.data.datasets.mpii import FILE_JOINTS
from pnfs.data.persons import Persons

PADDING = 1.25
"""The loaders enlarge the boxes in the files by this factor; the writers take it off again."""


SHORT_NAMES = (
    "rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head",
    "rwri", "relb", "rsho", "lsho", "lelb", "lwri",
)  # fmt: skip


def _write_images(persons: Persons, folder: Path, prefix: str, first: int, suffix: str):
    """Writes each image once; row of `persons.images` -> file name, and (height, width)."""
    folder.mkdir(parents=True, exist_ok=True)
    names, sizes = {}, {}
    for number, index in enumerate(np.unique(persons.image_index).tolist()):
        names[index] = f"{prefix}{first + number:012d}.{suffix}"
        image = persons.images.read(index)
        sizes[index] = image.shape[:2]
        cv2.imwrite(str(folder / names[index]), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return names, sizes


def write_mpii(persons_by_split: Mapping[str, Persons], folder: Path | str, image_format: str = "png") -> None:
    """`images/`, `annot/train.json`, `annot/valid.json`, `annot/gt_valid.mat`: 1-based, in the files' order.

    Reading it back gives the same joints, the same boxes (a box that is no square becomes one, with the longer
    side) and, for "val", the same reference lengths.
    """
    folder = Path(folder)
    (folder / "annot").mkdir(parents=True)
    order = MPII.indices(list(FILE_JOINTS))
    for split, persons in persons_by_split.items():
        names, _ = _write_images(persons, folder / "images", f"{split}_", 0, image_format)
        labelled = persons.visibility[:, order] > 0
        joints = persons.joints[:, order].astype(np.float64) + 1
        scale = persons.box_size.max(-1).astype(np.float64) / (PADDING * 200)
        records = [
            {
                "image": names[int(persons.image_index[row])],
                # The loaders' rule: y + 15 scale, minus 1.
                "center": (persons.center[row] + 1.0 - np.array([0, 15 * scale[row]])).tolist(),
                "scale": scale[row],
                "joints": np.where(labelled[row][:, None], joints[row], -1.0).tolist(),
                "joints_vis": labelled[row].astype(int).tolist(),
            }
            for row in range(len(persons))
        ]
        file = {"train": "train.json", "val": "valid.json"}[split]
        (folder / "annot" / file).write_text(json.dumps(records))
    ends = [FILE_JOINTS.index(name) for name in ("head_top", "upper_neck")]
    # Only the size of the head box counts in the score: a square around the middle of the head.
    half = persons.reference_length.astype(np.float64) / 0.6 / np.sqrt(8)
    corners = joints[:, ends].mean(1) + np.stack([-half, half])[..., None]
    truth = {
        "dataset_joints": np.array([SHORT_NAMES], dtype=object),
        "jnt_missing": (~labelled).T.astype(np.uint8),
        "pos_gt_src": np.where(labelled[..., None], joints, 0).transpose(1, 2, 0),
        "headboxes_src": corners.transpose(0, 2, 1),
    }
    scipy.io.savemat(folder / "annot/gt_valid.mat", truth)


def write_coco(persons_by_split: Mapping[str, Persons], folder: Path | str, image_format: str = "png") -> None:
    """`annotations/person_keypoints_*2017.json` and `images/`.

    Reading it back gives the same joints and visibility flags and, for boxes that lie inside the image, the same
    boxes: they are written one pixel wider and taller than from their first to their last pixel, as COCO counts.
    """
    folder = Path(folder)
    (folder / "annotations").mkdir(parents=True)
    images_before = persons_before = 0
    category = {"id": 1, "name": "person", "keypoints": list(COCO.joints)}
    for split, persons in persons_by_split.items():
        target = folder / f"images/{split}2017"
        names, sizes = _write_images(persons, target, "", images_before + 1, image_format)
        ids = {index: images_before + 1 + number for number, index in enumerate(names)}
        keypoints = np.dstack([persons.joints.astype(np.float64), persons.visibility])
        annotations = []
        for row in range(len(persons)):
            size = persons.box_size[row].astype(np.float64) / PADDING
            low, (width, height) = persons.center[row].astype(np.float64) - size / 2, size + 1
            annotations.append({
                "id": persons_before + 1 + row, "image_id": ids[int(persons.image_index[row])],
                "category_id": 1, "iscrowd": 0, "bbox": [*low.tolist(), width, height],
                "area": 0.53 * width * height, "segmentation": [],
                "num_keypoints": int((persons.visibility[row] > 0).sum()),
                "keypoints": [
                    int(value) if column % 3 == 2 else value
                    for column, value in enumerate(keypoints[row].ravel().tolist())
                ],
            })  # fmt: skip
        content = {
            "categories": [category],
            "images": [
                {"id": ids[i], "file_name": names[i], "width": sizes[i][1], "height": sizes[i][0]} for i in names
            ],
            "annotations": annotations,
        }
        path = folder / f"annotations/person_keypoints_{split}2017.json"
        path.write_text(json.dumps(content))
        images_before += len(names)
        persons_before += len(persons)


def people(count: int) -> np.ndarray:
    """(count, 14, 3): joint k of person n lies at (10 n + 4 k, 20 + k), third number 1."""
    joints = np.ones((count, 14, 3))
    joints[..., 0] = 10 * np.arange(count)[:, None] + 4 * np.arange(14)
    joints[..., 1] = 20 + np.arange(14)
    return joints


def write_lsp(root: Path, joints: np.ndarray, kind: type = LSPET, suffix: str = "jpg") -> Path:
    """A dataset below `root`; image n (from 1) is of grey level 10 n."""
    (root / "images").mkdir(parents=True)
    for number in range(1, len(joints) + 1):
        name = f"im{number:0{4 if kind is LSP else 5}d}.{suffix}"
        cv2.imwrite(str(root / "images" / name), np.full((8, 8, 3), 10 * number, np.uint8))
    table = joints.transpose((2, 1, 0) if kind is LSP else (1, 2, 0))
    scipy.io.savemat(root / "joints.mat", {"joints": table})
    return root


def scores(source: PoseDataset, split: str, predicted: np.ndarray, joint_scores: Any = None) -> dict[str, float]:
    """The scores of a dataset's metric; `joint_scores` (N, K), None: 1."""
    persons, metric = source.persons(split), MetricCollection([source.metric(split)])
    joint_scores = np.ones(predicted.shape[:2], np.float32) if joint_scores is None else joint_scores
    metric.update(
        predicted=torch.from_numpy(predicted),
        scores=torch.from_numpy(joint_scores),
        joints_image=torch.from_numpy(persons.joints),
        labelled=torch.from_numpy(persons.visibility > 0),
        reference_length=torch.from_numpy(persons.reference_length),
        sample_index=torch.arange(len(persons)),
    )
    return {name: float(value) for name, value in metric.compute().items()}


def write_labels(root: Path, labels: dict, detections: Sequence[dict] = ()) -> Path:
    """A dataset below `root` with these annotations in "train" and "val", in COCO's layout; pictures are empty."""
    boxes = "person_detection_results/COCO_{}_person.json".format
    for name, what in (
        ("annotations/person_keypoints_train2017.json", labels),
        ("annotations/person_keypoints_val2017.json", labels),
        ("annotations/image_info_test-dev2017.json", labels | {"annotations": []}),
        (boxes("val2017_detections_AP_H_56"), detections),
        (boxes("test-dev2017_detections_AP_H_609"), detections),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(what))
    for split in ("train2017", "val2017", "test2017"):
        (root / "images" / split).mkdir(parents=True)
        for image in labels["images"]:
            (root / "images" / split / image["file_name"]).touch()
    return root


def require_server_format(path: Path, images: list[int]) -> None:
    """What COCO's server asks of a results file: name, whole numbers, 17 joints, finite scores, no repetition."""
    assert re.fullmatch(r"person_keypoints_(val2017|test-dev2017)_[\w.-]+_results\.json", path.name)
    records = json.loads(path.read_text())
    assert records
    for record in records:
        assert set(record) == {"image_id", "category_id", "keypoints", "score"}
        assert type(record["image_id"]) is type(record["category_id"]) is int
        assert record["image_id"] in images
        assert record["category_id"] == 1
        assert len(record["keypoints"]) == 51
        assert np.isfinite([*record["keypoints"], record["score"]]).all()
    assert len({json.dumps(record) for record in records}) == len(records)

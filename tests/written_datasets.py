"""People written to disk in the layouts of MPII's, COCO's and LSP's users, for tests of the loaders."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import scipy.io
import torch
from torchmetrics import MetricCollection

from pnfs.body import COCO, MPII, MPII_FILE_JOINTS
from pnfs.body import LSP as LSP_JOINTS
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.lsp import LSP, LSPET
from pnfs.data.images import ImageSource
from pnfs.data.persons import Persons

PADDING = 1.25
"""The loaders enlarge the boxes in the files by this factor; the writers take it off again."""


def _write_images(persons: Persons, folder: Path, name: str, suffix: str) -> dict[int, dict[str, Any]]:
    """Writes each image once, named by its row of `persons.images`; row -> its entry in COCO's files."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for row in np.unique(persons.image_index).tolist():
        image, file = persons.images.read(row), f"{name.format(row)}.{suffix}"
        height, width = image.shape[:2]
        entries[row] = {"file_name": file, "width": width, "height": height}
        cv2.imwrite(str(folder / file), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return entries


def write_mpii(persons_by_split: Mapping[str, Persons], folder: Path | str, image_format: str = "png") -> None:
    """`images/`, `annot/train.json`, `annot/valid.json`, `annot/gt_valid.mat`: 1-based, in the files' order.

    Reading it back gives the same joints, the same boxes (a box that is no square becomes one, with the longer
    side) and, for "val", the same reference lengths.
    """
    folder = Path(folder)
    (folder / "annot").mkdir(parents=True)
    order = MPII.indices(list(MPII_FILE_JOINTS))
    for split, persons in persons_by_split.items():
        images = _write_images(persons, folder / "images", f"{split}_{{:012d}}", image_format)
        labelled = persons.visibility[:, order] > 0
        joints = persons.joints[:, order].astype(np.float64) + 1
        scale = persons.box_size.max(-1).astype(np.float64) / (PADDING * 200)
        columns = {
            "image": [images[row]["file_name"] for row in persons.image_index.tolist()],
            # The loaders' rule: y + 15 scale, minus 1.
            "center": (persons.center + 1.0 - np.stack([0 * scale, 15 * scale], -1)).tolist(),
            "scale": scale.tolist(),
            "joints": np.where(labelled[..., None], joints, -1.0).tolist(),
            "joints_vis": labelled.astype(int).tolist(),
        }
        records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        file = {"train": "train.json", "val": "valid.json"}[split]
        (folder / "annot" / file).write_text(json.dumps(records))
    # Only the size of the head box counts in the score: a square around the head top.
    half = persons.reference_length.astype(np.float64) / 0.6 / np.sqrt(8)
    corners = joints[:, MPII_FILE_JOINTS.index("head_top")] + np.stack([-half, half])[..., None]
    truth = {
        "pos_gt_src": np.where(labelled[..., None], joints, 0).transpose(1, 2, 0),
        "headboxes_src": corners.transpose(0, 2, 1),
    }
    scipy.io.savemat(folder / "annot/gt_valid.mat", truth)


def write_coco(persons_by_split: Mapping[str, Persons], folder: Path | str, image_format: str = "png") -> None:
    """`annotations/person_keypoints_*2017.json` and `images/`.

    Reading it back gives the same joints and visibility flags and, for boxes that lie inside the image, the same
    boxes: they are written one pixel wider and taller than from their first to their last pixel, as COCO counts.
    """
    folder, count = Path(folder), 1
    (folder / "annotations").mkdir(parents=True)
    category = {"id": 1, "name": "person", "keypoints": list(COCO.joints)}
    for split, persons in persons_by_split.items():
        images = _write_images(persons, folder / f"images/{split}2017", f"{split}_{{:012d}}", image_format)
        for row, entry in images.items():
            entry["id"] = count + row
        size = persons.box_size.astype(np.float64) / PADDING
        boxes = np.hstack([persons.center - size / 2, size + 1]).tolist()
        annotations = [
            {
                "id": count + row, "image_id": images[image]["id"], "category_id": 1, "iscrowd": 0, "bbox": box,
                "area": 0.53 * box[2] * box[3], "num_keypoints": int((flags > 0).sum()),
                "keypoints": np.column_stack([joints.astype(float), flags]).ravel().tolist(),
            }
            for row, (image, box, joints, flags) in enumerate(
                zip(persons.image_index.tolist(), boxes, persons.joints, persons.visibility, strict=True)
            )
        ]  # fmt: skip
        content = {"categories": [category], "images": list(images.values()), "annotations": annotations}
        (folder / f"annotations/person_keypoints_{split}2017.json").write_text(json.dumps(content))
        count += len(persons)


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
    columns = {
        "predicted": predicted, "scores": joint_scores, "joints_image": persons.joints,
        "labelled": persons.visibility > 0, "reference_length": persons.reference_length,
        "sample_index": np.arange(len(persons)),
    }  # fmt: skip
    metric.update(**{name: torch.from_numpy(column) for name, column in columns.items()})
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
        assert (record["image_id"] in images, record["category_id"], len(record["keypoints"])) == (True, 1, 51)
        assert np.isfinite([*record["keypoints"], record["score"]]).all()
    assert len({json.dumps(record) for record in records}) == len(records)


# --- toy persons for tests of crops, caches and loaders


def smooth_picture(seed: int, height: int = 240, width: int = 320, blur: float = 6) -> np.ndarray:
    """Coarse noise in muted colours: what JPEG and interpolation twice leave nearly as it is."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), blur)
    blurred += 2 * blurred.mean(-1, keepdims=True)
    spread = (blurred - blurred.mean()) * (60 / blurred.std()) + 128
    return spread.clip(0, 255).astype(np.uint8)


def toy_persons(
    count: int, images: ImageSource | None = None, name: str = "toy train", skeleton=LSP_JOINTS
) -> Persons:
    """Persons with LSP's joints, one an image of 320 x 240 px."""
    random = np.random.default_rng(9)
    shape = (count, len(skeleton))
    return Persons(
        name=name,
        skeleton=skeleton,
        images=images or SimpleNamespace(read=smooth_picture, describe="smooth{}".format),  # type: ignore[arg-type]
        ids=np.array([f"person{i}" for i in range(count)]),
        image_index=np.arange(count),
        joints=random.uniform(60, 200, (*shape, 2)).astype(np.float32),
        visibility=random.integers(0, 3, shape).astype(np.int8),
        center=random.uniform((120, 90), (200, 150), (count, 2)).astype(np.float32),
        box_size=random.uniform(50, 110, (count, 2)).astype(np.float32),
        reference_length=random.uniform(10, 20, count).astype(np.float32),
    )

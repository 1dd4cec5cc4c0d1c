"""Damaged files of others: each is read, or refused by one DataError that names it; nothing else may happen."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
from numpy.random import Generator

from conftest import Tally
from pnfs.data.check import inspect_dataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.lsp import LSPET
from pnfs.data.datasets.mpii import MPII
from pnfs.data.images import DataError, ImageFiles
from pnfs.data.readers import read_arrays
from pnfs.data.synthetic import Synthetic
from written_datasets import write_coco, write_mpii

SEEN = "nothing, or the file, the record and what is wrong there"
FEW, MANY = 40, 900
AMOUNTS = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]

ODD: list[Any] = [None, True, -1, 0, 0.5, 1e400, float("nan"), 2**70, "", "x", [], {}, [[1]], "\ud800"]
"""What may stand in the place of any value of a JSON file."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("foreign")
    for name, write in (("mpii", write_mpii), ("coco", write_coco)):
        drawn = Synthetic(name, train=3, val=3, image_size=(48, 48))
        write({split: drawn.persons(split) for split in ("train", "val")}, root / name)
    (root / "lspet/images").mkdir(parents=True)
    joints = np.random.default_rng(0).uniform(1, 30, (14, 3, 5))
    joints[:, 2] = 1
    for number in range(1, 6):
        picture = np.zeros((32, 32, 3), np.uint8)
        cv2.imwrite(str(root / f"lspet/images/im{number:05d}.jpg"), picture)
    scipy.io.savemat(root / "lspet/joints.mat", {"joints": joints}, do_compression=True)
    records = json.loads((root / "coco/annotations/person_keypoints_val2017.json").read_text())["annotations"]
    results = [{k: r[k] for k in ("image_id", "category_id", "keypoints", "bbox")} for r in records]
    (root / "boxes.json").write_text(json.dumps([r | {"score": 0.5} for r in results]))
    return root


def damaged(content: bytes, random: Generator) -> bytes:
    """Some bytes changed, mostly in the head; cut off, or doubled, now and then."""
    changed = bytearray(content)
    for _ in range(random.integers(1, 4)):
        place = random.integers(min(len(changed), 300) if random.random() < 0.6 else len(changed))
        changed[place] = random.integers(256)
    kind = random.random()
    if kind < 0.15:
        return bytes(changed[: random.integers(len(changed))])
    return bytes(changed * 2) if kind > 0.95 else bytes(changed)


def altered(value: Any, random: Generator) -> Any:
    """A copy of JSON data with one value, somewhere, replaced, left out or doubled."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = list(value)[random.integers(len(value))]
        rest = {k: v for k, v in value.items() if k != key}
        return rest if random.random() < 0.1 else value | {key: altered(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.9:
        place = random.integers(len(value))
        if random.random() < 0.1:
            return value[:place] + value[place + 1 :] if random.random() < 0.5 else [*value, value[0]]
        return [altered(v, random) if k == place else v for k, v in enumerate(value)]
    return ODD[random.integers(len(ODD))]


def survives(read: Callable[[], object], name: str) -> bool:
    """Whether the file was refused; any error but a DataError that names it is a failure."""
    message = None
    try:
        read()
    except DataError as error:
        message = str(error)
    assert message is None or name in message, message
    return message is not None


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("name", ["lspet/joints.mat", "mpii/annot/gt_valid.mat"])
def test_matlab_files(root: Path, tmp_path: Path, tally: Tally, name: str, amount: int) -> None:
    content, path = (root / name).read_bytes(), tmp_path / "file.mat"
    refused = 0
    for seed in range(3 * amount):
        path.write_bytes(damaged(content, np.random.default_rng(seed)))
        refused += survives(lambda: read_arrays(path), "file.mat")
    assert refused > amount
    tally("damaged annotation files (MATLAB, MPII, COCO, detections, poses)", 3 * amount, SEEN)


def read_all(kind: type, root: Path) -> None:
    dataset = kind(root, check_images=False)
    dataset.persons("train")
    dataset.persons("val")
    dataset.metric("val")


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize(
    ("kind", "file"),
    [(MPII, "annot/train.json"), (MPII, "annot/valid.json"),
     (COCO, "annotations/person_keypoints_val2017.json")],
)  # fmt: skip
@pytest.mark.parametrize("by_bytes", [False, True])
def test_annotations(
    root: Path, tmp_path: Path, tally: Tally, kind: type, file: str, by_bytes: bool, amount: int
) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for name in (root / kind.__name__.lower()).iterdir():
        if name.name == "images":
            (folder / "images").symlink_to(name)
    source = root / kind.__name__.lower()
    for path in source.rglob("annot*/*"):
        (folder / path.relative_to(source)).parent.mkdir(exist_ok=True)
        (folder / path.relative_to(source)).write_bytes(path.read_bytes())
    content = (source / file).read_bytes()
    for seed in range(amount):
        random = np.random.default_rng(seed)
        changed = damaged(content, random) if by_bytes else json.dumps(
            altered(json.loads(content), random)
        ).encode()  # fmt: skip
        (folder / file).write_bytes(changed)
        survives(lambda: read_all(kind, folder), "")
        if seed % 10 == 0:
            inspect_dataset(kind(folder, check_images=False), images=False)
    tally("damaged annotation files (MATLAB, MPII, COCO, detections, poses)", amount, SEEN)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_detections_and_poses(root: Path, tmp_path: Path, tally: Tally, amount: int) -> None:
    content, path = json.loads((root / "boxes.json").read_text()), tmp_path / "boxes.json"
    labelled = COCO(root / "coco")
    for seed in range(amount):
        path.write_text(json.dumps(altered(content, np.random.default_rng(seed))))
        dataset = COCO(root / "coco", boxes="detected", detections=path)
        survives(lambda: dataset.metric("val"), "")  # noqa: B023
        survives(lambda: labelled.read_predictions("val", path), "boxes.json")
    tally("damaged annotation files (MATLAB, MPII, COCO, detections, poses)", 2 * amount, SEEN)


@pytest.mark.parametrize("amount", [FEW, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
def test_images(tmp_path: Path, tally: Tally, suffix: str, amount: int) -> None:
    path = tmp_path / f"image.{suffix}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8))
    content = path.read_bytes()
    for seed in range(amount):
        random = np.random.default_rng(seed)
        changed = bytearray(damaged(content, random))
        if seed % 3 == 0 and len(changed) > 40:  # A size out of all proportion.
            place = random.integers(0, 40)
            changed[place : place + 4] = struct.pack(">I", random.integers(2**32))
        path.write_bytes(changed)
        survives(lambda: ImageFiles(tmp_path, [path.name]).read(0), path.name)
    tally("damaged images, also with sizes out of proportion", amount, SEEN)


@pytest.mark.parametrize("name", ["annotations/person_keypoints_train2017.json", "annot/train.json"])
def test_text_that_is_not_utf_8_is_named(root: Path, tmp_path: Path, name: str) -> None:
    kind = MPII if name.startswith("annot/") else COCO
    path = root / kind.__name__.lower() / name
    content = path.read_bytes()
    try:
        path.write_bytes(b'{"name": "\xe9"}')
        assert survives(lambda: kind(path.parents[1]).persons("train"), path.name)
    finally:
        path.write_bytes(content)


def test_lspet_reads_what_is_whole(root: Path) -> None:
    assert len(LSPET(root / "lspet", validation_from=4).persons("train")) == 3

"""The page in headless Chromium against `pnfs predict`'s own answers."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import pnfs
from pnfs.body import MPII
from pnfs.codec import Codec
from pnfs.data.geometry import apply, crop_matrix
from pnfs.export.onnx_model import export_onnx
from pnfs.inference import Prediction
from pnfs.inference.inputs import read_picture
from tiny import fabric_backbone, fabric_network

pytestmark = pytest.mark.slow

WEB = Path(__file__).parents[2] / "web"
SIZE = (96, 64)
BOXES = [[20, 10, 150, 230], [0, 60, 180, 120]]


def blobs() -> tuple[np.ndarray, np.ndarray]:
    """A picture with a coloured disk on each joint, and the joints."""
    random = np.random.default_rng(3)
    joints = random.uniform(20, 180, (16, 2)) * [1, 1.3]
    image = np.full((260, 200, 3), 128, np.uint8)
    for place, colour in zip(joints.astype(int), random.integers(0, 256, (16, 3)), strict=True):
        cv2.circle(image, place.tolist(), 14, colour.tolist(), -1)
    return image, joints


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The picture, and a photograph of it that its camera recorded lying on its side."""
    path = tmp_path_factory.mktemp("picture") / "blobs.png"
    exif, picture = Image.Exif(), Image.fromarray(blobs()[0])
    exif[ExifTags.Base.Orientation] = 6
    picture.save(path)
    picture.save(path.with_name("turned.jpg"), quality=95, exif=exif)
    return path, path.with_name("turned.jpg")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for some steps on crops of the one picture, so that its score maps have peaks."""
    torch.manual_seed(0)
    network = fabric_network(
        {"upper": MPII.joints[:9], "lower": MPII.joints[7:]},
        backbone=fabric_backbone(channels=4),
        channels=4,
    )
    images, targets = training_crops(32)
    network.calibrate(images[:8])
    optimiser = torch.optim.Adam(network.weight_parameters(), 0.01)
    for step in range(60):
        rows = torch.arange(8) + 8 * (step % 4)
        loss = (network.heatmaps(images[rows]) - targets[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    export_onnx(network.eval(), path, input_size=SIZE, codec=Codec(sigma=1.5))
    return path


def training_crops(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    image, joints = blobs()
    random = np.random.default_rng(0)
    crops, places = [], []
    for _ in range(count):
        width = random.uniform(100, 260)
        center = random.uniform(60, 140, 2) * [1, 1.3]
        matrix = crop_matrix(center, np.array([width, 1.5 * width]), 0.0, SIZE)
        crops.append(cv2.warpAffine(image, matrix, SIZE[::-1]))
        places.append(apply(matrix, joints))
    labelled = torch.ones(count, 16, dtype=torch.bool)
    places = torch.tensor(np.stack(places)).float()
    targets, _ = Codec(sigma=1.5).targets(places, labelled, (24, 16))
    return torch.from_numpy(np.stack(crops)), targets


@pytest.fixture(scope="module")
def address(builder, node, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a plain static server serves the built page."""
    folder = tmp_path_factory.mktemp("dist")
    builder.build(model, folder)
    handler = partial(_Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def use(node: str, **question: Any) -> dict[str, Any]:
    """What tests/web/drive.mjs saw."""
    if not (WEB / "node_modules/playwright-core").is_dir():
        npm = [shutil.which("npm") or "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(npm, cwd=WEB, check=True)
    script = Path(__file__).parent / "drive.mjs"
    done = subprocess.run(
        [node, str(script)], input=json.dumps(question), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_agrees(found: dict[str, Any], expected: Prediction) -> None:
    """The page's table against the poses of one person."""
    assert [row[0] for row in found["rows"]] == [name.replace("_", " ") for name in MPII.joints]
    x_y_score = np.array([row[2:] for row in found["rows"]], float)
    np.testing.assert_allclose(x_y_score[:, 2], expected.scores[0], atol=0.02)
    distances = np.linalg.norm(x_y_score[:, :2] - expected.joints[0], axis=-1)
    assert distances.max() < 1, distances


def test_the_page_finds_what_pnfs_predict_finds(
    node, chromium, address: str, model: Path, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    picture, turned = pictures
    no_picture = tmp_path / "notes.png"
    no_picture.write_text("no pixels")
    asked = [(picture, [None, *BOXES, None]), (turned, [None, BOXES[1]])]
    shown = [{"file": str(file), "boxes": boxes} for file, boxes in asked]
    question = {"chromium": chromium, "address": address, "pictures": shown}
    seen = use(node, **question, widths=[1400, 700], noPicture=str(no_picture))
    predictor = pnfs.load(model)

    def expected(file: Path, box: list[float] | None) -> Prediction:
        return predictor.predict(read_picture(file), None if box is None else np.array([box]))

    for (file, boxes), answers in zip(asked, seen["pictures"], strict=True):
        for box, found in zip(boxes, answers, strict=True):
            assert box in (None, found["box"])
            assert_agrees(found, expected(file, box))
    dragged = seen["dragged"]
    np.testing.assert_allclose(dragged["box"], [65, 50, 130, 100], atol=2)
    assert_agrees(dragged, expected(turned, dragged["box"]))
    assert_agrees(seen["dropped"], expected(picture, None))
    assert seen["dropped"]["box"] == [0, 0, 200, 260]
    assert seen["dropped"]["status"].startswith("dropped.png: ")

    assert seen["troubles"] == []
    assert {url.startswith((address, "data:")) for url in seen["requests"]} == {True}
    for layout in seen["layouts"]:
        assert not layout["overflows"]
        assert 300 < layout["width"] < 700
    assert seen["pictureChanges"] == [True, True]
    assert seen["tabStops"] == [
        "file", "box-x", "box-y", "box-width", "box-height", "whole", "maps", "colours", "flip",
    ]  # fmt: skip
    assert seen["refusal"].startswith("notes.png: this is no picture")
    assert seen["refusalGone"]
    assert seen["withoutModel"].startswith("The model could not be loaded: ")

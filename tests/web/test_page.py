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

import pnfs
from pnfs.body import MPII
from pnfs.export.onnx_model import export_onnx
from pnfs.inference import Prediction
from tiny import fabric_backbone, fabric_network

pytestmark = pytest.mark.slow

WEB = Path(__file__).parents[2] / "web"
SIZE = (96, 64)
PARTS = {"upper": MPII.joints[:9], "lower": MPII.joints[7:]}
BOXES = [[60, 40, 90, 200], [0, 100, 180, 60]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = fabric_network(
        backbone=fabric_backbone(first_layers=3, channels=2),
        skeleton="mpii",
        parts=PARTS,
        channels=2,
    ).eval()
    network.calibrate(torch.randn(4, 3, *SIZE))
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    export_onnx(network, path, input_size=SIZE)
    return path


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth colours, higher than wide, without loss."""
    noise = np.random.default_rng(3).integers(0, 256, (9, 7, 3), np.uint8)
    path = tmp_path_factory.mktemp("picture") / "smooth.png"
    cv2.imwrite(str(path), cv2.resize(noise, (200, 260), interpolation=cv2.INTER_CUBIC))
    return path


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
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed; it shows the page")
    if not (WEB / "node_modules/playwright-core").is_dir():
        npm = [shutil.which("npm") or "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(npm, cwd=WEB, check=True)
    question = {"chromium": chromium, "screenshot": None, **question}
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
    node, address: str, model: Path, picture: Path, tmp_path: Path
) -> None:
    no_picture = tmp_path / "notes.png"
    no_picture.write_text("no pixels")
    pictures = [{"file": str(picture), "boxes": [None, *BOXES, None]}]
    seen = use(
        node,
        address=address,
        widths=[1400, 700],
        pictures=pictures,
        noPicture=str(no_picture),
    )
    predictor = pnfs.load(model)
    image = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)

    def expected(box: list[float] | None) -> Prediction:
        return predictor.predict(image, None if box is None else np.array([box]))

    for found, box in zip(seen["pictures"][0], pictures[0]["boxes"], strict=True):
        assert found["box"] == (box or [0, 0, 200, 260])
        assert_agrees(found, expected(box))
    dragged = seen["dragged"]
    np.testing.assert_allclose(dragged["box"], [50, 65, 100, 130], atol=2)
    assert_agrees(dragged, expected(dragged["box"]))
    assert_agrees(seen["dropped"], expected(None))
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

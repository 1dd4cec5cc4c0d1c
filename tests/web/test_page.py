"""The page: its modules against pnfs's own geometry and decoding, run by Node.js; in headless Chromium against the
answers of `pnfs predict`."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import pnfs
from pnfs.body import LSP, MPII
from pnfs.codec import Codec, decode, to_image
from pnfs.data.geometry import crop_extent, crop_matrix, fit_box, invert
from pnfs.data.synthetic import Synthetic
from pnfs.export.runtimes import ExportError, ModelMetadata
from pnfs.inference import Prediction
from pnfs.inference.inputs import read_picture
from tiny_runs import call

WEB = Path(__file__).parents[2] / "web"


def program(*names: str) -> str:
    paths = [path for name in names if (path := shutil.which(name))]
    if not paths:
        pytest.skip(f"{names[0]} is not installed")
    return paths[0]


@pytest.fixture(scope="session")
def builder(script) -> ModuleType:
    return script("web/build.py")


SIZE, MAP_SIZE = (96, 64), (24, 16)
PARTS = (("upper", MPII.joints[:9]), ("lower", MPII.joints[7:]))


METADATA = ModelMetadata(SIZE, 4, "mpii", MPII.joints, MPII.limbs, MPII.flip_pairs, parts=PARTS)


def test_joints_and_limbs_know_their_side_and_part(builder) -> None:
    model = builder.describe(METADATA, Path("model.onnx"))
    joints = {joint["name"]: joint for joint in model["joints"]}
    assert list(joints) == list(MPII.joints)
    # A joint of two parts has the colour of the first.
    assert joints["left_wrist"] == {"name": "left_wrist", "side": "left", "part": 0}
    assert joints["pelvis"] == {"name": "pelvis", "side": "centre", "part": 1}
    limbs = {tuple(MPII.joints[k] for k in limb["joints"]): limb for limb in model["limbs"]}
    assert list(limbs) == list(MPII.limbs)
    # One part holds both ends of the first two, none those of the last.
    ends = (("left_elbow", "left_wrist"), ("pelvis", "right_hip"), ("thorax", "pelvis"))
    known = [(limbs[both]["side"], limbs[both]["part"]) for both in ends]
    assert known == [("left", 0), ("right", 1), ("centre", None)]
    assert model["sideColours"]["left"] == "#56b4e9"
    assert [part["joints"] for part in model["parts"]] == [list(range(9)), list(range(7, 16))]
    colours = [colour for colour, _ in zip(builder.part_colours(), range(16), strict=False)]
    assert len(set(colours)) == 16


def test_what_no_page_can_be_built_of(builder, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"absent\.onnx"):
        builder.build(tmp_path / "absent.onnx", tmp_path / "dist")


def score_maps(seed: int) -> np.ndarray:
    """Gaussians anywhere, also beside and beyond the border, on a little noise; one joint has no peak."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: MAP_SIZE[0], : MAP_SIZE[1]]
    peaks = random.uniform(-1, 1, (len(MPII), 2)) * np.array([9, 13]) + np.array([7.5, 11.5])
    squares = (x - peaks[:, 0, None, None]) ** 2 + (y - peaks[:, 1, None, None]) ** 2
    maps = np.exp(-squares / 8) + random.normal(0, 0.01, squares.shape)
    maps[3] = -np.abs(maps[3])
    return maps.astype(np.float32)


@pytest.mark.parametrize(
    ("method", "sigma", "unbiased", "shift"),
    [("argmax", 2.0, False, 0), ("quarter", 2.0, False, 1), ("dark", 2.0, False, 1), ("dark", 1.0, True, 0)],
)
@pytest.mark.parametrize("box", [[31, 12, 40, 90], [-20, 50, 160, 30]])
def test_modules_agree_with_pnfs(builder, method, sigma: float, unbiased: bool, shift, box: list[int]) -> None:
    random = np.random.default_rng(5)
    picture = cv2.resize(random.integers(0, 256, (9, 7, 3), np.uint8), (120, 150))
    maps, mirrored_maps = score_maps(1), score_maps(2)
    settings = {"decode_method": method, "sigma": sigma, "unbiased": unbiased, "flip_shift": shift}
    model = builder.describe(replace(METADATA, **settings), Path("model.onnx"))
    assert model["inputSize"] == list(SIZE)
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA).ravel().tolist()
    question = {
        "model": model, "maps": maps.ravel().tolist(), "mirroredMaps": mirrored_maps.ravel().tolist(),
        "picture": {"width": 120, "height": 150, "data": pixels}, "box": box, "padding": 1.25,
    }  # fmt: skip
    script = str(Path(__file__).parent / "modules.mjs")
    found = json.loads(subprocess.check_output([program("node"), script], input=json.dumps(question), text=True))

    both = torch.from_numpy(maps), torch.from_numpy(mirrored_maps)
    averaged = Codec(flip_shift=shift).flip_averaged(*both, MPII.flip_permutation)  # type: ignore[arg-type]
    locations, scores = decode(averaged[None], method, sigma=sigma)
    np.testing.assert_allclose([[j["x"], j["y"]] for j in found["joints"]], locations[0], atol=1e-3)
    np.testing.assert_allclose([j["score"] for j in found["joints"]], scores[0], atol=1e-6)

    x, y, width, height = box
    extent = crop_extent(SIZE, unbiased)
    size = fit_box(np.array([width, height]) * 1.25, extent[0] / extent[1])
    center = np.array([x + width / 2, y + height / 2])
    matrix = crop_matrix(center, size, 0.0, SIZE, unbiased=unbiased)
    stride = torch.tensor(Codec(unbiased=unbiased).stride(MAP_SIZE))
    places = to_image(locations * stride, torch.from_numpy(invert(matrix))[None])
    np.testing.assert_allclose(found["places"], places[0], atol=1e-2)

    crop = cv2.warpAffine(picture, matrix, SIZE[::-1], flags=cv2.INTER_LINEAR).astype(int)
    cut = np.array(found["crop"]).reshape(*SIZE, 3)
    # OpenCV takes shares of a pixel in steps of 1/32, so that its border is a step off at most.
    assert np.abs(cut - crop).max() <= 8
    assert np.abs(cut - crop).mean() < 0.5
    np.testing.assert_array_equal(np.array(found["mirrored"]).reshape(*SIZE, 3), cut[:, ::-1])

    for part, (_, joints) in zip(found["parts"], PARTS, strict=True):
        expected = averaged[MPII.indices(list(joints))].amax(0)
        np.testing.assert_allclose(part, expected.ravel(), atol=1e-6)
    assert found["box"] == [max(0, x), y, min(width, 120 - max(0, x)), height]


BOXES = [[20, 10, 150, 230], [0, 60, 180, 120]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A drawn person, and a photograph of it that its camera recorded lying on its side."""
    path = tmp_path_factory.mktemp("picture") / "person.png"
    persons = Synthetic("mpii", val=1, image_size=(260, 200)).persons("val")
    exif, picture = Image.Exif(), Image.fromarray(persons.images.read(0))
    exif[ExifTags.Base.Orientation] = 6
    picture.save(path)
    picture.save(path.with_name("turned.jpg"), quality=95, exif=exif)
    return path, path.with_name("turned.jpg")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "shipped.onnx"
    call("export", "checkpoint=shipped", f"out={path}")
    return path


@pytest.fixture(scope="module")
def address(builder, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
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


def use(**question: Any) -> dict[str, Any]:
    """What tests/web/drive.mjs saw."""
    if not (WEB / "node_modules/playwright-core").is_dir():
        npm = [shutil.which("npm") or "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(npm, cwd=WEB, check=True)
    script = Path(__file__).parent / "drive.mjs"
    done = subprocess.run(
        [program("node"), str(script)], input=json.dumps(question), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_agrees(found: dict[str, Any], expected: Prediction) -> None:
    """The page's table against the poses of one person."""
    assert [row[0] for row in found["rows"]] == [name.replace("_", " ") for name in LSP.joints]
    x_y_score = np.array([row[2:] for row in found["rows"]], float)
    np.testing.assert_allclose(x_y_score[:, 2], expected.scores[0], atol=0.02)
    sure = expected.scores[0] > 0.2
    assert sure.sum() > 2
    distances = np.linalg.norm(x_y_score[:, :2] - expected.joints[0], axis=-1)
    assert distances[sure].max() < 1, distances


@pytest.mark.slow
def test_the_page_finds_what_pnfs_predict_finds(
    address: str, model: Path, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    picture, turned = pictures
    no_picture = tmp_path / "notes.png"
    no_picture.write_text("no pixels")
    asked = [(picture, [None, *BOXES, None]), (turned, [None, BOXES[1]])]
    shown = [{"file": str(file), "boxes": boxes} for file, boxes in asked]
    question = {"chromium": program("chromium", "google-chrome"), "address": address, "pictures": shown}
    seen = use(**question, widths=[1400, 700], noPicture=str(no_picture))
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
    assert [seen["takenBack"][key] == dragged[key] for key in ("rows", "box")] == [True, True]
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

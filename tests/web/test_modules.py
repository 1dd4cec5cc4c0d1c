"""What web/build.py says of a model; the page's geometry and decoding against pnfs's own, run by Node.js."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pnfs.body import MPII
from pnfs.codec import Codec, decode, to_image
from pnfs.data.geometry import crop_extent, crop_matrix, fit_box, invert
from pnfs.export.runtimes import ExportError, ModelMetadata

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
    [
        ("argmax", 2.0, False, 0),
        ("quarter", 2.0, False, 1),
        ("dark", 2.0, False, 1),
        ("dark", 1.0, True, 0),
    ],
)
@pytest.mark.parametrize("box", [[31, 12, 40, 90], [-20, 50, 160, 30]])
def test_modules_agree_with_pnfs(
    node, builder, method, sigma: float, unbiased: bool, shift, box: list[int]
) -> None:
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
    found = json.loads(subprocess.check_output([node, script], input=json.dumps(question), text=True))

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

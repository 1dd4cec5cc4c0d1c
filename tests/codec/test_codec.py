"""Joints to heatmaps and back: recorded ones, HRNet's quarter pixel, DARK, any map; the flip test."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pnfs.body import LSP
from pnfs.codec import Codec, blur_size, decode, to_image
from pnfs.codec.codec import DecodeMethod
from pnfs.data import geometry
from pnfs.errors import PnfsError

STRIDE = 4
METHODS: tuple[DecodeMethod, ...] = ("dark", "quarter", "argmax")


@pytest.mark.fixtures("decode_*.npz")
def test_decoding_matches_the_reference(fixture_file: Path) -> None:
    case = np.load(fixture_file)
    maps = torch.from_numpy(case["heatmaps"])
    height, width = maps.shape[-2:]
    size = (STRIDE * height, STRIDE * width)
    crops = zip(case["center"], 200 * case["scale"], strict=True)
    matrices = np.stack([geometry.invert(geometry.crop_matrix(*crop, 0, size)) for crop in crops])
    pixels, scores = decode(maps, "argmax")
    np.testing.assert_array_equal(pixels.numpy(), case["argmax_xy"])
    np.testing.assert_array_equal(scores.numpy(), case["maxvals"][..., 0])
    records: dict[DecodeMethod, str] = {"argmax": "preds_nopost", "quarter": "preds_post"}
    for method, recorded in records.items():
        locations, _ = decode(maps, method)
        found = to_image(STRIDE * locations, torch.from_numpy(matrices))
        np.testing.assert_allclose(found.numpy(), case[recorded], atol=1e-3, rtol=0)


def test_ties_and_half_precision() -> None:
    maps = torch.zeros(1, 1, 6, 6)
    maps[..., 2, 4] = maps[..., 3, 1] = maps[..., 5, 5] = 0.7
    # The first of equal maxima wins; equal neighbours give no offset.
    for method in ("argmax", "quarter"):
        assert decode(maps, method)[0][0, 0].tolist() == [4, 2]
    assert decode(maps.bfloat16())[1].dtype == torch.float32


def peaks(places: torch.Tensor, size: tuple[int, int] = (64, 48), sigma: float = 2.0) -> torch.Tensor:
    """Heatmaps of joints at places x, y in crop pixels."""
    labelled = torch.ones(places.shape[:2], dtype=torch.bool)
    return Codec(sigma=sigma, quantised=False).targets(places, labelled, size)[0]


def anywhere(count: int, size: tuple[int, int] = (64, 48), margin: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Places in crop pixels, this many heatmap pixels off the border."""
    last = torch.tensor([size[1] - 1.0, size[0] - 1.0]) - 2 * margin
    generator = torch.Generator().manual_seed(seed)
    return STRIDE * (margin + last * torch.rand(2, count, 2, generator=generator))


@pytest.mark.parametrize("sigma", [2.0, 3.0])
def test_a_joint_comes_back_from_its_map(sigma: float) -> None:
    places = anywhere(500, margin=8)
    found, scores = decode(peaks(places, sigma=sigma), "dark", sigma=sigma)
    assert (STRIDE * found - places).abs().max() < 0.02 < 0.1 < scores.min()
    quarter, argmax = (STRIDE * decode(peaks(places), method)[0] - places for method in METHODS[1:])
    assert quarter.abs().mean() < 0.9 * argmax.abs().mean()
    # Also from the border, though less exactly.
    places = anywhere(500)
    places[0, :100, 0] = 0.0
    places[0, 100:200] = torch.tensor([47.0, 63.0]) * STRIDE
    found, _ = decode(peaks(places, sigma=sigma), "dark", sigma=sigma)
    assert torch.linalg.vector_norm(STRIDE * found - places, dim=-1).max() < 0.15 * sigma


def published_dark(heatmap: np.ndarray, kernel: int) -> np.ndarray:
    """DARK as its authors wrote it: whole map blurred, scaled to the old maximum, one joint."""
    height, width = heatmap.shape
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    border = (kernel - 1) // 2
    padded = np.zeros((height + 2 * border, width + 2 * border))
    padded[border:-border, border:-border] = heatmap
    blurred = cv2.GaussianBlur(padded, (kernel, kernel), 0)[border:-border, border:-border]
    log = np.log(np.maximum(blurred * heatmap.max() / blurred.max(), 1e-10))
    place = np.array([x, y], np.float64)
    if 1 < x < width - 2 and 1 < y < height - 2:
        slope = np.array([log[y, x + 1] - log[y, x - 1], log[y + 1, x] - log[y - 1, x]]) / 2
        dxx = (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2]) / 4
        dyy = (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x]) / 4
        dxy = log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1]
        place -= np.linalg.solve(np.array([[dxx, dxy / 4], [dxy / 4, dyy]]), slope)
    return place


def test_dark_is_the_published_procedure_away_from_the_border() -> None:
    places = anywhere(60, margin=9, seed=3)
    maps = peaks(places)
    maps += 0.3 * peaks(anywhere(60, margin=9, seed=4))
    maps += 0.03 * torch.rand(maps.shape, generator=torch.Generator().manual_seed(5))
    found, _ = decode(maps, "dark")
    expected = [[published_dark(m, 11) for m in person] for person in maps.double().numpy()]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)
    assert [blur_size(sigma) for sigma in (2.0, 3.0, 1.0, 0.5)] == [11, 17, 5, 3]


def test_what_cannot_be_decoded_is_refused() -> None:
    for maps, method, named in (
        (torch.zeros(1, 3, 0, 8), "quarter", "no pixel"),
        (torch.zeros(1, 1, 4, 4), "nearest", "'nearest'"),
    ):
        with pytest.raises(PnfsError, match=named):
            decode(maps, method)  # type: ignore[arg-type]
    for name, value in {"sigma": 0.0, "decode_method": "best", "flip_shift": 2}.items():
        with pytest.raises(PnfsError, match=rf"codec\.{name}"):
            Codec(**{name: value})  # type: ignore[arg-type]


map_sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))
seeds = st.integers(0, 10_000)


@settings(deadline=None, max_examples=60)
@given(seeds, map_sizes, st.sampled_from(METHODS), st.floats(0.4, 4.0))
def test_any_map_decodes_near_its_highest_pixel(seed, size, method, sigma) -> None:
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    maps[0, 0] = torch.linspace(0.1, 1, size[0])[:, None]  # A ramp that is highest at the border.
    maps[0, 1] = 0.25
    found, scores = decode(maps, method, sigma=sigma)
    assert torch.equal(scores, maps.flatten(-2).max(-1).values)
    pixel, _ = decode(maps, "argmax")
    reach = {"argmax": 0.0, "quarter": 0.25, "dark": 2.0}[method]
    assert ((found - pixel).abs() <= reach).all()


@pytest.mark.fixtures("target_*.npz")
def test_targets_match_the_reference(fixture_file: Path) -> None:
    case = np.load(fixture_file)
    width, height = case["heatmap_size_wh"].tolist()
    stride = tuple((case["image_size_wh"] / case["heatmap_size_wh"]).tolist())
    labelled = torch.from_numpy(case["joints_vis"][..., 0] > 0)
    codec = Codec(sigma=float(case["sigma"]))
    assert stride == codec.stride((height, width))
    joints = torch.from_numpy(case["joints"][..., :2])
    maps, weights = codec.targets(joints, labelled, (height, width))
    np.testing.assert_array_equal(weights.numpy(), case["target_weight"][..., 0])
    # An invisible joint's map holds nothing to learn; inside the others every pixel counts.
    np.testing.assert_array_equal((maps > 0).numpy(), case["target"] > 0)
    np.testing.assert_allclose(maps.numpy(), case["target"], atol=1e-6)


def test_without_a_radius_the_gaussian_has_no_end() -> None:
    x, y = -90.0, 200.0
    joints, labelled = torch.tensor([[[x, y]]], dtype=torch.float64), torch.tensor([[True]])
    maps, weights = Codec(quantised=False, radius=None).targets(joints, labelled, (16, 12))
    rows, columns = np.mgrid[:16, :12]
    expected = np.exp(-((columns - x / 4) ** 2 + (rows - y / 4) ** 2) / 8)
    np.testing.assert_allclose(maps[0, 0], expected, rtol=1e-13, atol=0)
    assert weights.item() == 1


def test_coordinates_of_unlabelled_joints_do_not_matter() -> None:
    joints = torch.tensor([[[float("nan"), 3.0], [20.0, 20.0], [float("inf"), -float("inf")]]])
    for values in Codec().targets(joints, torch.zeros(1, 3, dtype=torch.bool), (8, 8)):
        assert not values.any()


@pytest.mark.parametrize("shift", [0, 1])
def test_the_average_matches_an_index_by_index_computation(shift: int) -> None:
    maps, mirrored = torch.rand(2, 2, len(LSP), 3, 5)
    average = Codec(flip_shift=shift).flip_averaged(maps, mirrored, LSP.flip_permutation)  # type: ignore[arg-type]
    for joint, partner in enumerate(LSP.flip_permutation.tolist()):
        for x in range(5):
            source = max(x - 1, 0) if shift else x
            expected = (maps[:, joint, :, x] + mirrored[:, partner, :, 4 - source]) / 2
            torch.testing.assert_close(average[:, joint, :, x], expected)

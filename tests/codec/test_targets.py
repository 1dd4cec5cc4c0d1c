from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pnfs.codec import Codec, DecodeMethod, decode


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


def one_target(x: float, y: float, size: tuple[int, int] = (16, 12), **options):
    joints, labelled = torch.tensor([[[x, y]]]), torch.tensor([[True]])
    maps, weights = Codec(**options).targets(joints, labelled, size)
    return maps[0, 0], weights[0, 0].item()


def slow_target(x: float, y: float, size: tuple[int, int], sigma: float) -> np.ndarray:
    heatmap = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            if abs(column - x) <= 3 * sigma and abs(row - y) <= 3 * sigma:
                squared = (column - x) ** 2 + (row - y) ** 2
                heatmap[row, column] = np.exp(-squared / (2 * sigma**2))
    return heatmap


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize(("x", "y"), [(21.0, 33.0), (1.0, 60.0), (-9.0, 70.0), (46.9, 2.2)])
def test_targets_match_a_pixel_by_pixel_computation(x: float, y: float, quantised: bool) -> None:
    heatmap, weight = one_target(x, y, sigma=1.5, quantised=quantised)
    centre = (int(x / 4 + 0.5), int(y / 4 + 0.5)) if quantised else (x / 4, y / 4)
    np.testing.assert_allclose(heatmap, slow_target(*centre, (16, 12), 1.5), atol=1e-6)
    assert weight == 1


@pytest.mark.parametrize(("x", "y"), [(21.0, 33.0), (-90.0, 200.0)])
def test_without_a_radius_the_gaussian_has_no_end(x: float, y: float) -> None:
    joints, labelled = torch.tensor([[[x, y]]], dtype=torch.float64), torch.tensor([[True]])
    maps, weights = Codec(quantised=False, radius=None).targets(joints, labelled, (16, 12))
    rows, columns = np.mgrid[:16, :12]
    expected = np.exp(-((columns - x / 4) ** 2 + (rows - y / 4) ** 2) / 8)
    assert maps.dtype == torch.float64
    np.testing.assert_allclose(maps[0, 0], expected, rtol=1e-13, atol=0)
    assert weights.item() == 1


def test_the_centre_is_truncated_towards_zero() -> None:
    # -5 / 4 + 0.5 = -0.75, which truncates to 0 where floor gives -1.
    assert one_target(-5.0, 20.0)[0][5, 0] == 1


@pytest.mark.parametrize(("x", "y"), [(-34.0, 20.0), (20.0, -34.0), (71.0, 20.0), (20.0, 87.0)])
def test_a_joint_wholly_outside_has_weight_zero(x: float, y: float) -> None:
    heatmap, weight = one_target(x, y)
    assert weight == 0
    assert heatmap.sum() == 0


@pytest.mark.parametrize(("x", "y"), [(-26.0, 20.0), (20.0, -26.0), (69.0, 20.0), (20.0, 85.0)])
def test_a_joint_whose_gaussian_reaches_inside_keeps_its_weight(x: float, y: float) -> None:
    heatmap, weight = one_target(x, y)
    assert weight == 1
    assert heatmap.sum() > 0


def test_coordinates_of_unlabelled_joints_do_not_matter() -> None:
    joints = torch.tensor([[[float("nan"), 3.0], [20.0, 20.0], [float("inf"), -float("inf")]]])
    labelled = torch.tensor([[False, False, False]])
    maps, weights = Codec().targets(joints, labelled, (8, 8))
    assert maps.count_nonzero() == 0
    assert weights.tolist() == [[0, 0, 0]]


def test_targets_stay_in_single_precision_under_autocast() -> None:
    expected, _ = one_target(21.3, 17.9, quantised=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        heatmap, _ = one_target(21.3, 17.9, quantised=False)
    assert heatmap.dtype == torch.float32
    torch.testing.assert_close(heatmap, expected, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"sigma": 0.0}, {"decode_method": "best"}, {"flip_shift": 2}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"codec\.(sigma|decode_method|flip_shift)"):
        one_target(3.0, 3.0, **options)


coordinates = st.floats(10.0, 46.0, width=32)


@settings(deadline=None)
@given(x=coordinates, y=coordinates)
def test_decoding_a_quantised_target_gives_its_pixel(x: float, y: float) -> None:
    heatmap, _ = one_target(x, y, size=(16, 16))
    locations, scores = decode(heatmap[None, None], "argmax")
    assert locations[0, 0].tolist() == [int(x / 4 + 0.5), int(y / 4 + 0.5)]
    assert scores.item() == 1


@settings(deadline=None)
@given(x=coordinates, y=coordinates)
def test_the_quarter_offset_halves_the_error_of_an_exact_target(x: float, y: float) -> None:
    heatmap, _ = one_target(x, y, size=(16, 16), quantised=False)
    bounds: dict[DecodeMethod, float] = {"argmax": 0.5, "quarter": 0.25}
    for method, largest in bounds.items():
        locations, _ = decode(heatmap[None, None], method)
        assert np.abs(locations[0, 0].numpy() - np.array([x, y]) / 4).max() <= largest + 1e-3

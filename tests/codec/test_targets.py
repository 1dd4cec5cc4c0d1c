"""Joints to target heatmaps, and the flip test's mean of an image's and its mirror image's heatmaps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pnfs.body import LSP
from pnfs.codec import Codec


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
    for row, column in np.ndindex(size):
        if abs(column - x) <= 3 * sigma and abs(row - y) <= 3 * sigma:
            squared = (column - x) ** 2 + (row - y) ** 2
            heatmap[row, column] = np.exp(-squared / (2 * sigma**2))
    return heatmap


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize(("x", "y"), [(21.0, 33.0), (-5.0, 20.0), (-9.0, 70.0), (46.9, 2.2)])
def test_targets_match_a_pixel_by_pixel_computation(x: float, y: float, quantised: bool) -> None:
    heatmap, weight = one_target(x, y, sigma=1.5, quantised=quantised)
    # -5 / 4 + 0.5 = -0.75 is truncated to 0, where floor gives -1.
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


OUTSIDE = [(-34.0, 20.0), (20.0, -34.0), (71.0, 20.0), (20.0, 87.0)]
INSIDE = [(-26.0, 20.0), (20.0, -26.0), (69.0, 20.0), (20.0, 85.0)]


@pytest.mark.parametrize(("x", "y"), OUTSIDE + INSIDE)
def test_a_joint_whose_gaussian_reaches_inside_has_weight_one(x: float, y: float) -> None:
    heatmap, weight = one_target(x, y)
    assert weight == ((x, y) in INSIDE)
    assert (heatmap.sum() > 0) == ((x, y) in INSIDE)


def test_coordinates_of_unlabelled_joints_do_not_matter() -> None:
    joints = torch.tensor([[[float("nan"), 3.0], [20.0, 20.0], [float("inf"), -float("inf")]]])
    for values in Codec().targets(joints, torch.zeros(1, 3, dtype=torch.bool), (8, 8)):
        assert not values.any()


@pytest.mark.parametrize("options", [{"sigma": 0.0}, {"decode_method": "best"}, {"flip_shift": 2}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"codec\.(sigma|decode_method|flip_shift)"):
        one_target(3.0, 3.0, **options)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_average_matches_an_index_by_index_computation(shift: int) -> None:
    maps, mirrored = torch.rand(2, 2, len(LSP), 3, 5)
    average = Codec(flip_shift=shift).flip_averaged(maps, mirrored, LSP.flip_permutation)  # type: ignore[arg-type]
    for joint, partner in enumerate(LSP.flip_permutation.tolist()):
        for x in range(5):
            source = max(x - 1, 0) if shift else x
            expected = (maps[:, joint, :, x] + mirrored[:, partner, :, 4 - source]) / 2
            torch.testing.assert_close(average[:, joint, :, x], expected)

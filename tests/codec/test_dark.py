import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pnfs.codec import Codec, blur_size, decode
from pnfs.codec.decode import DecodeMethod

STRIDE = 4
METHODS: tuple[DecodeMethod, ...] = ("dark", "quarter", "argmax")


def peaks(
    places: torch.Tensor, size: tuple[int, int] = (64, 48), sigma: float = 2.0
) -> torch.Tensor:
    """Score maps of joints at places x, y in crop pixels."""
    labelled = torch.ones(places.shape[:2], dtype=torch.bool)
    return Codec(sigma=sigma, quantised=False).targets(places, labelled, size)[0]


def anywhere(
    count: int, size: tuple[int, int] = (64, 48), margin: float = 0.0, seed: int = 0
) -> torch.Tensor:
    """Places in crop pixels, this many heatmap pixels off the border."""
    last = torch.tensor([size[1] - 1.0, size[0] - 1.0]) - 2 * margin
    generator = torch.Generator().manual_seed(seed)
    return STRIDE * (margin + last * torch.rand(2, count, 2, generator=generator))


def mean_error(maps: torch.Tensor, places: torch.Tensor, method: DecodeMethod) -> float:
    found, _ = decode(maps, method)
    return torch.linalg.vector_norm(STRIDE * found - places, dim=-1).mean().item()


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_dark_errs_less_than_the_quarter_and_that_less_than_argmax(noise: float) -> None:
    places = anywhere(400)
    maps = peaks(places)
    maps += noise * torch.randn(maps.shape, generator=torch.Generator().manual_seed(1))
    dark, quarter, argmax = (mean_error(maps, places, method) for method in METHODS)
    assert dark < 0.25 * quarter
    assert quarter < 0.9 * argmax


@pytest.mark.parametrize("sigma", [2.0, 3.0])
def test_a_joint_comes_back_from_its_map(sigma: float) -> None:
    places = anywhere(500, margin=8)
    found, scores = decode(peaks(places, sigma=sigma), "dark", sigma=sigma)
    assert (STRIDE * found - places).abs().max() < 0.02
    assert scores.min() > 0.9


def test_a_joint_comes_back_also_from_the_border() -> None:
    places = anywhere(500)
    places[0, :100, 0] = 0.0
    places[0, 100:200] = torch.tensor([47.0, 63.0]) * STRIDE
    found, _ = decode(peaks(places), "dark")
    errors = torch.linalg.vector_norm(STRIDE * found - places, dim=-1)
    assert errors.max() < 0.3


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


@pytest.mark.parametrize(("sigma", "size"), [(2.0, 11), (3.0, 17), (1.0, 5), (0.5, 3)])
def test_the_blur_has_the_published_sizes(sigma: float, size: int) -> None:
    assert blur_size(sigma) == size


def test_a_sigma_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma must be positive"):
        decode(torch.rand(1, 1, 8, 8), "dark", sigma=0.0)


def test_maps_without_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="no pixel"):
        decode(torch.zeros(1, 3, 0, 8))


def test_without_a_maximum_of_its_own_the_pixel_stays() -> None:
    maps = torch.full((1, 3, 20, 20), 0.25)
    maps[0, 1] = torch.linspace(0.1, 1, 20)[:, None]  # a ramp that is highest at the border
    maps[0, 2] = -1.0
    found, _ = decode(maps, "dark")
    assert found[0, 2].tolist() == [0, 0]
    pixel, _ = decode(maps, "argmax")
    assert ((found - pixel).abs() <= 2).all()
    assert found.isfinite().all()


def test_no_persons_give_no_locations() -> None:
    for method in METHODS:
        found, scores = decode(torch.zeros(0, 16, 8, 6), method)
        assert found.shape == (0, 16, 2)
        assert scores.shape == (0, 16)


map_sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))
seeds = st.integers(0, 10_000)


@settings(deadline=None, max_examples=60)
@given(seeds, map_sizes, st.sampled_from(METHODS), st.floats(0.4, 4.0))
def test_any_map_decodes_near_its_highest_pixel(seed, size, method, sigma) -> None:
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    found, scores = decode(maps, method, sigma=sigma)
    assert torch.equal(scores, maps.flatten(-2).max(-1).values)
    pixel, _ = decode(maps, "argmax")
    reach = {"argmax": 0.0, "quarter": 0.25, "dark": 2.0}[method]
    assert ((found - pixel).abs() <= reach).all()


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from(METHODS), st.floats(0.1, 50.0))
def test_the_scale_of_the_scores_does_not_move_joints(seed, method, factor) -> None:
    maps = peaks(anywhere(4, seed=seed))
    found, _ = decode(factor * maps, method)
    torch.testing.assert_close(found, decode(maps, method)[0], atol=1e-3, rtol=0)


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(-12, 12), st.integers(-12, 12))
def test_moving_a_joint_by_whole_pixels_moves_what_is_decoded(seed, dx, dy) -> None:
    move = torch.tensor([dx, dy], dtype=torch.float32)
    places = anywhere(4, size=(56, 56), margin=21, seed=seed)
    for method in METHODS:
        before, _ = decode(peaks(places, (56, 56)), method)
        after, _ = decode(peaks(places + STRIDE * move, (56, 56)), method)
        torch.testing.assert_close(after, before + move, atol=2e-3, rtol=0)


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_mirrored_maps_decode_to_mirrored_joints(seed) -> None:
    maps = peaks(anywhere(6, seed=seed))
    found, _ = decode(maps, "dark")
    mirrored, _ = decode(maps.flip(-1), "dark")
    expected = torch.stack([maps.shape[-1] - 1 - found[..., 0], found[..., 1]], -1)
    torch.testing.assert_close(mirrored, expected, atol=2e-3, rtol=0)

from pathlib import Path

import numpy as np
import pytest
import torch

from pnfs.codec import decode, to_image
from pnfs.codec.decode import DecodeMethod
from pnfs.data import geometry

STRIDE = 4


@pytest.mark.fixtures("decode_*.npz")
def test_decoding_matches_the_reference(fixture_file: Path) -> None:
    case = np.load(fixture_file)
    maps = torch.from_numpy(case["heatmaps"])
    height, width = maps.shape[-2:]
    matrices = np.stack(
        [
            geometry.invert(
                geometry.crop_matrix(center, 200 * scale, 0, (STRIDE * height, STRIDE * width))
            )
            for center, scale in zip(case["center"], case["scale"], strict=True)
        ]
    )
    pixels, scores = decode(maps, "argmax")
    np.testing.assert_array_equal(pixels.numpy(), case["argmax_xy"])
    np.testing.assert_array_equal(scores.numpy(), case["maxvals"][..., 0])
    records: dict[DecodeMethod, str] = {"argmax": "preds_nopost", "quarter": "preds_post"}
    for method, recorded in records.items():
        locations, _ = decode(maps, method)
        found = to_image(STRIDE * locations, torch.from_numpy(matrices))
        np.testing.assert_allclose(found.numpy(), case[recorded], atol=1e-3, rtol=0)


def single_peak(x: int, y: int, size: tuple[int, int] = (10, 8)) -> torch.Tensor:
    """A peak whose neighbours to the right and above are the higher ones."""
    maps = torch.full((1, 1, *size), 0.1)
    maps[..., y, x] = 1
    if x + 1 < size[1]:
        maps[..., y, x + 1] = 0.5
    if y > 0:
        maps[..., y - 1, x] = 0.5
    return maps


@pytest.mark.parametrize(
    ("x", "y", "offset"),
    [
        (4, 4, True), (2, 2, True), (6, 8, True),
        (1, 4, False), (4, 1, False), (0, 0, False), (7, 9, False), (7, 4, False), (4, 9, False),
    ],
)  # fmt: skip
def test_the_quarter_offset_needs_an_interior_pixel(x: int, y: int, offset: bool) -> None:
    locations, _ = decode(single_peak(x, y), "quarter")
    expected = [x + 0.25, y - 0.25] if offset else [x, y]
    assert locations[0, 0].tolist() == expected


def test_equal_neighbours_give_no_offset() -> None:
    maps = torch.zeros(1, 1, 9, 9)
    maps[..., 4, 4] = 1
    assert decode(maps)[0][0, 0].tolist() == [4, 4]


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_without_a_positive_score_the_location_is_the_origin(value: float) -> None:
    maps = torch.full((1, 2, 6, 6), value - 1)
    maps[:, :, 3, 4] = value
    locations, scores = decode(maps)
    assert locations.tolist() == [[[0, 0], [0, 0]]]
    assert scores.tolist() == [[value, value]]


def test_the_first_of_equal_maxima_wins() -> None:
    maps = torch.zeros(1, 1, 6, 6)
    maps[..., 2, 4] = maps[..., 3, 1] = maps[..., 5, 5] = 0.7
    assert decode(maps, "argmax")[0][0, 0].tolist() == [4, 2]
    assert decode(torch.full((1, 1, 6, 6), 0.25))[0][0, 0].tolist() == [0, 0]


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (2, 2)])
def test_tiny_maps_decode(size: tuple[int, int]) -> None:
    maps = torch.rand(2, 3, *size) + 0.1
    assert torch.equal(decode(maps, "quarter")[0], decode(maps, "argmax")[0])


def test_half_precision_maps_give_single_precision_locations() -> None:
    maps = single_peak(4, 4)
    locations, scores = decode(maps.bfloat16())
    assert locations.dtype == scores.dtype == torch.float32
    assert torch.equal(locations, decode(maps)[0])


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="argmax"):
        decode(torch.zeros(1, 1, 4, 4), "nearest")  # pyright: ignore[reportArgumentType]


def test_locations_go_to_the_image_through_the_crop_matrix() -> None:
    generator = np.random.default_rng(0)
    matrices = [
        geometry.crop_matrix(generator.uniform(0, 900, 2), np.array([w, w]), r, (64, 48), flip=f)
        for w, r, f in ((300.0, 20.0, False), (90.0, -45.0, True))
    ]
    in_image = generator.uniform(0, 900, (2, 5, 2))
    in_crop = np.stack([geometry.apply(m, p) for m, p in zip(matrices, in_image, strict=True)])
    inverses = torch.from_numpy(np.stack([geometry.invert(m) for m in matrices])).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = to_image(torch.from_numpy(in_crop).float(), inverses)
    np.testing.assert_allclose(found.numpy(), in_image, atol=2e-3)

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pnfs.codec import Codec, decode
from pnfs.data import geometry


@pytest.mark.fixtures("affine*.npz")
def test_crop_matrices_match_the_reference(fixture_file: Path) -> None:
    cases = np.load(fixture_file)
    for row in range(len(cases["center"])):
        width, height = cases["output_size_wh"][row].tolist()
        matrix = geometry.crop_matrix(
            cases["center"][row], 200 * cases["scale"][row], cases["rot_deg"][row], (height, width)
        )
        pairs = (matrix, cases["matrix"][row]), (geometry.invert(matrix), cases["matrix_inv"][row])
        for found, recorded in pairs:
            # The reference solves for its matrix from points in single precision.
            largest = np.abs(recorded[:, :2]).max()
            np.testing.assert_allclose(found[:, :2], recorded[:, :2], atol=1e-5 * largest, rtol=0)
            np.testing.assert_allclose(found[:, 2], recorded[:, 2], atol=0.02, rtol=0)


finite = st.floats(-2000, 2000)
boxes = st.floats(5, 3000)
degrees = st.floats(-180, 180)
output_sizes = st.tuples(st.integers(16, 512), st.integers(16, 512))


@pytest.mark.parametrize(("rotation", "flip"), [(0, False), (90, False), (30, True)])
def test_a_warped_image_shows_a_dot_where_the_matrix_puts_it(rotation: int, flip: bool) -> None:
    image = np.zeros((120, 160), np.float32)
    dot = np.array([70.0, 50.0])
    cv2.circle(image, (70, 50), 3, 1.0, -1)
    matrix = geometry.crop_matrix(
        np.array([80.0, 60.0]), np.array([80.0, 80.0]), rotation, (96, 96), flip
    )
    crop = cv2.warpAffine(image, matrix, (96, 96), flags=cv2.INTER_LINEAR)
    rows, columns = np.indices(crop.shape)
    centroid = [(columns * crop).sum() / crop.sum(), (rows * crop).sum() / crop.sum()]
    np.testing.assert_allclose(centroid, geometry.apply(matrix, dot), atol=0.1)


@pytest.mark.parametrize(
    ("center", "size", "rotation"),
    [((5, 5), (0, 10), 0), ((5, 5), (-3, 10), 0), ((np.nan, 5), (9, 9), 0), ((5, 5), (9, 9), np.inf)],
)  # fmt: skip
def test_an_impossible_box_is_refused(center, size, rotation) -> None:
    with pytest.raises(ValueError, match="no crop can be made"):
        geometry.crop_matrix(np.array(center), np.array(size), rotation, (64, 64))


# --- unbiased: sizes in pixel intervals


@given(finite, finite, boxes, degrees, output_sizes, st.booleans())
def test_the_unbiased_crop_takes_the_box_to_the_outermost_pixels(
    x, y, width, rotation, output_size, flip
) -> None:
    height_px, width_px = output_size
    center = np.array([x, y])
    box = geometry.fit_box(np.array([width, 1e-3]), (width_px - 1) / (height_px - 1))
    matrix = geometry.crop_matrix(center, box, rotation, output_size, flip, unbiased=True)
    # The box's corners as they lie in the turned image.
    angle = np.radians(rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * box / 2 @ turn.T + center
    right, bottom = width_px - 1, height_px - 1
    expected = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], float)
    if flip:
        expected[:, 0] = right - expected[:, 0]
    np.testing.assert_allclose(geometry.apply(matrix, corners), expected, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(64, 64), (64, 48), (96, 72)]))
def test_unbiased_maps_of_a_joint_and_its_mirror_image_agree(seed: int, heatmap_size) -> None:
    input_size = (4 * heatmap_size[0], 4 * heatmap_size[1])
    generator = np.random.default_rng(seed)
    in_image = generator.uniform(130, 170, (1, 1, 2))
    maps = {}
    for unbiased in (True, False):
        for flip in (False, True):
            matrix = geometry.crop_matrix(
                np.array([150.0, 150.0]), np.array([130.0, 130.0]), 20, input_size, flip, unbiased
            )
            joints = torch.from_numpy(geometry.apply(matrix, in_image))
            labelled = torch.ones(1, 1, dtype=torch.bool)
            codec = Codec(quantised=False, unbiased=unbiased, flip_shift=0)
            maps[unbiased, flip] = codec.targets(joints, labelled, heatmap_size)[0]
    single = np.array([0])
    found = codec.flip_averaged(maps[True, False], maps[True, True], single)
    # Where the 3-sigma square cuts off, rounding may put an edge pixel in or out.
    torch.testing.assert_close(found, maps[True, False], atol=0.006, rtol=0)
    places = [decode(m, "dark")[0] for m in (found, maps[True, False])]
    torch.testing.assert_close(places[0], places[1], atol=2e-3, rtol=0)
    biased = [decode(maps[False, f].flip(-1) if f else maps[False, f], "dark")[0]
              for f in (False, True)]  # fmt: skip
    # What HRNet shifts by a whole pixel to make up for.
    assert (biased[0] - biased[1])[0, 0, 0].item() == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(
    ("size", "unbiased", "needed"), [((1, 8), True, "two pixels"), ((8, 0), False, "a pixel")]
)
def test_sizes_without_extent_are_refused(size, unbiased: bool, needed: str) -> None:
    with pytest.raises(ValueError, match="too small"):
        Codec(unbiased=unbiased).stride(size)
    with pytest.raises(ValueError, match=needed):
        geometry.crop_matrix(np.array([5.0, 5.0]), np.array([9.0, 9.0]), 0, size, unbiased=unbiased)


@given(boxes, boxes, st.floats(0.2, 5))
def test_a_fitted_box_has_the_shape_holds_the_box_and_no_more(width, height, aspect) -> None:
    fitted = geometry.fit_box(np.array([width, height]), aspect)
    np.testing.assert_allclose(fitted[0] / fitted[1], aspect)
    assert (fitted >= np.array([width, height]) * (1 - 1e-12)).all()
    assert np.isclose(fitted, [width, height]).any()
    np.testing.assert_allclose(geometry.fit_box(fitted, aspect), fitted)

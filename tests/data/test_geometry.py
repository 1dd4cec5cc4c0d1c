from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    matrix = geometry.crop_matrix(np.array([80.0, 60.0]), np.array([80.0, 80.0]), rotation, (96, 96), flip)
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
def test_the_unbiased_crop_takes_the_box_to_the_outermost_pixels(x, y, width, rotation, output_size, flip) -> None:
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

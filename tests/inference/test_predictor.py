"""Prediction on arrays: places in the image, batches, what is refused."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from pnfs.body import COCO
from pnfs.codec import Codec
from pnfs.data.crops import CropDataset
from pnfs.data.images import DataError
from pnfs.data.synthetic import Synthetic
from pnfs.errors import PnfsError
from pnfs.inference import ExportedNetwork, ImageWithBoxes, Predictor, choose_device
from pnfs.models import PoseFabricNetwork
from pnfs.training.module import PoseModule
from tiny import TinyBackbone, fabric_network

K = len(COCO)
PARTS = {"upper": COCO.joints[:11], "legs": COCO.joints[9:]}
SIZE = (96, 64)


def network() -> PoseFabricNetwork:
    torch.manual_seed(0)
    backbone = TinyBackbone()
    return fabric_network(PARTS, backbone=backbone, skeleton="coco", vector_dim=2).eval()


class RedFinder:
    """Stands in for a network: every joint is where the crop is red; right joints half as sure."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        red = images[:, ::4, ::4, 0].astype(np.float32) / 255
        sure = np.array([0.5 if "right" in name else 1.0 for name in COCO.joints], np.float32)
        return red[:, None] * sure[:, None, None]


def finder(**arguments) -> Predictor:
    # Crops are so wide that the oracle's places are exact.
    return Predictor(ExportedNetwork(RedFinder(), COCO), **{"input_size": (256, 256), **arguments})


def dots(*places: tuple[float, float], size=(300, 400)) -> np.ndarray:
    """A black picture with red Gaussian dots."""
    y, x = np.mgrid[: size[0], : size[1]]
    red = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 6.0**2)) for cx, cy in places)
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = np.rint(255 * np.clip(red, 0, 1))
    return image


DOT, BOX = dots((61, 203)), [11, 150, 100, 120]


def test_predictor_equals_the_modules_evaluation() -> None:
    source = Synthetic("coco", train=1, val=5, image_size=(96, 96))
    persons = source.persons("val")
    module = PoseModule(network=network(), metric=source.metric("val"), optimizer=torch.optim.Adam, flip_test=True)
    dataset = CropDataset(persons, input_size=SIZE)
    batch = default_collate([dataset[n] for n in range(len(dataset))])
    with torch.no_grad():
        part_maps = module.network(batch["image"])
        expected, expected_scores = module.locate(part_maps, batch)
    # The comparison would say little if all joints were in one place.
    assert expected.std() > 5
    as_given = Predictor(network(), padding=1.0, batch_size=2, input_size=SIZE)
    padded = Predictor(network(), padding=1.25, input_size=SIZE)
    for n, person in enumerate(persons):
        box = np.concatenate([person.center - person.box_size / 2, person.box_size])
        found = as_given.predict(person.image, box[None], maps=True, vectors=True)
        np.testing.assert_allclose(found.joints[0], expected[n], atol=2e-3)
        np.testing.assert_allclose(found.scores[0], expected_scores[n], atol=1e-5)
        np.testing.assert_array_equal(found.maps.crops[0], batch["image"][n])
        np.testing.assert_allclose(found.maps.part_maps[0], part_maps[n], atol=1e-5)
        squared = np.square(found.maps.vectors[0]).sum(1)
        np.testing.assert_allclose(squared / (1 + squared), part_maps[n], atol=1e-5)
        # The dataset's boxes have its margin, which a predictor adds.
        size = person.box_size / 1.25
        tight = np.concatenate([person.center - size / 2, size])
        crop = padded.predict(person.image, tight[None], maps=True).maps.crops[0].astype(int)
        assert np.abs(crop - batch["image"][n].numpy()).max() <= 1


@pytest.mark.parametrize("flip_test", [True, False])
def test_joints_are_where_the_picture_shows_them(flip_test: bool) -> None:
    places = [(61.0, 203.0), (322.0, 110.0)]
    dark = finder(codec=Codec(decode_method="dark"))
    sure = np.array([0.5, 1.0])
    found = dark.predict(dots(*places), [BOX, [280, 60, 90, 100]], box_scores=sure, flip_test=flip_test)
    np.testing.assert_allclose(found.person_scores, sure * found.scores.mean(1), rtol=1e-6)
    for n, place in enumerate(places):
        # The flip test leaves a shift of up to a quarter of a score-map pixel, 0.6 px here.
        tolerance = 0.8 if flip_test else 0.2
        np.testing.assert_allclose(found.joints[n], np.tile(place, (K, 1)), atol=tolerance)
    right, left = (np.array([side in name for name in COCO.joints]) for side in ("right", "left"))
    # Mirrored, a right joint is as sure as a left one: both get the mean.
    ratio = 1.0 if flip_test else 0.5
    np.testing.assert_allclose(found.scores[:, right], ratio * found.scores[:, left], atol=0.01)
    # Without boxes one person fills the image; above and below its 400 px of width the crop is black.
    whole = finder().predict(np.full((300, 400, 3), 255, np.uint8), maps=True)
    assert whole.boxes.tolist() == [[0, 0, 400, 300]]
    assert abs(np.count_nonzero(whole.maps.crops[0].max((1, 2))) - 192) <= 1


@pytest.mark.parametrize("batch_size", [2, 100])
def test_batches_run_across_pictures_and_results_keep_their_order(batch_size: int) -> None:
    counts = [2, 0, 1, 3, 0]
    queries = [ImageWithBoxes(dots((50 + 5 * n, 203)), [BOX] * count) for n, count in enumerate(counts)]
    predictor = finder(batch_size=batch_size)
    found = list(predictor.predict_each(queries, flip_test=False))
    for n, (prediction, count) in enumerate(zip(found, counts, strict=True)):
        assert prediction.joints.shape == (count, K, 2)
        assert prediction.scores.shape == (count, K)
        assert np.all(np.abs(prediction.joints[..., 0] - (50 + 5 * n)) < 1.5)
        assert count or len(prediction.without_duplicates()) == 0
    full, rest = divmod(sum(counts), batch_size)
    assert predictor.network.runtime.batches == [batch_size] * full + [rest] * (rest > 0)


def test_of_poses_of_one_person_the_best_stays() -> None:
    # Three boxes around the first dot, one around the second.
    boxes = [BOX, [250, 40, 100, 120], [13, 152, 100, 116], [9, 148, 104, 124]]
    scores = np.array([0.3, 0.6, 0.9, 0.5])
    found = finder().predict(dots((61, 203), (300, 100)), boxes, box_scores=scores, maps=True)
    left = found.without_duplicates(0.9)
    for before, after in ((found, left), (found.maps, left.maps)):
        for name, values in vars(before).items():
            if isinstance(values, np.ndarray):
                np.testing.assert_array_equal(getattr(after, name), values[[1, 2]])
    assert found.without_duplicates(1.0) is found


@pytest.mark.parametrize(
    ("image", "boxes", "scores", "problem"),
    [
        (np.zeros((10, 10), np.uint8), None, None, "uint8"),
        (np.zeros((10, 10, 3), np.float32), None, None, "float32"),
        (DOT, [1, 2, 3, 4], None, r"\(N, 4\)"),
        (DOT, [["a", 2, 3, 4]], None, "numbers"),
        (DOT, [[5, 5, 10, 10], [5, 5, 0, 10]], None, "box 1"),
        (DOT, [[5, 5, float("nan"), 10]], None, "box 0"),
        (DOT, [[400, 5, 10, 10]], None, "outside the image of 400x300"),
        (DOT, [[1, 2, 3, 4]], np.ones(2), "box_scores"),
    ],
)
def test_what_is_no_rgb_image_or_box_is_refused(image, boxes, scores, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        finder().predict(image, boxes, box_scores=scores)


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(PnfsError, match="runtime=torch"):
        finder().predict(DOT, vectors=True)
    for device in ("cuda:99", "toaster"):
        with pytest.raises(PnfsError, match="cannot be used here"):
            choose_device(device)

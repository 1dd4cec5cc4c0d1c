"""Prediction on arrays: places in the image, batches, what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from pnfs.body import COCO
from pnfs.codec import Codec
from pnfs.data.crops import CropDataset
from pnfs.data.images import DataError
from pnfs.data.synthetic import Synthetic
from pnfs.inference import ImageWithBoxes, Predictor, TorchRuntime, choose_device
from pnfs.models import PoseFabricNetwork
from pnfs.models.backbones import Backbone
from pnfs.training.module import PoseModule
from tiny import fabric_network

K = len(COCO)
PARTS = {"upper": COCO.joints[:11], "legs": COCO.joints[9:]}
SIZE = (96, 64)


class TinyBackbone(Backbone):
    channels = (3, 4, 5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, channels, 1) for channels in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [
            conv(F.avg_pool2d(images, scale))
            for conv, scale in zip(self.convs, (4, 8, 16, 32), strict=True)
        ]


def network() -> PoseFabricNetwork:
    torch.manual_seed(0)
    return fabric_network(
        backbone=TinyBackbone(), skeleton="coco", parts=PARTS, channels=1, vector_dim=2
    ).eval()


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
    # Without a shift of the mirrored maps, and with wide crops, the oracle's places are exact.
    arguments = {"input_size": (256, 256), **arguments}
    return Predictor(RedFinder(), skeleton=COCO, **arguments)


def dots(*places: tuple[float, float], size=(300, 400)) -> np.ndarray:
    """A black picture with red Gaussian dots."""
    y, x = np.mgrid[: size[0], : size[1]]
    red = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 6.0**2)) for cx, cy in places)
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = np.rint(255 * np.clip(red, 0, 1))
    return image


def test_predictor_equals_the_modules_evaluation() -> None:
    source = Synthetic("coco", train=1, val=5, image_size=(96, 96))
    persons = source.persons("val")
    module = PoseModule(
        network=network(),
        metric=source.metric("val"),
        optimizer=torch.optim.Adam,
        flip_test=True,
    )
    dataset = CropDataset(persons, input_size=SIZE)
    batch = default_collate([dataset[n] for n in range(len(dataset))])
    with torch.no_grad():
        images = batch["image"]
        part_maps = module.network(images)
        mirrored = module.network.heatmaps(images.flip(2))
        maps = module.network.merged(part_maps)
        maps = Codec().flip_averaged(maps, mirrored, COCO.flip_permutation)
        expected, expected_scores = module.locate(part_maps, batch)
    predictor = Predictor(
        TorchRuntime(network()), skeleton=COCO, input_size=SIZE, padding=1.0, batch_size=2
    )
    for n, person in enumerate(persons):
        box = np.concatenate([person.center - person.box_size / 2, person.box_size])
        found = predictor.predict(person.image, box[None], maps=True, vectors=True)
        np.testing.assert_allclose(found.joints[0], expected[n], atol=2e-3)
        np.testing.assert_allclose(found.scores[0], expected_scores[n], atol=1e-5)
        assert found.maps is not None
        np.testing.assert_array_equal(found.maps.crops[0], batch["image"][n])
        np.testing.assert_allclose(found.maps.joint_maps[0], maps[n], atol=1e-5)
        np.testing.assert_allclose(found.maps.part_maps[0], part_maps[n], atol=1e-5)
        squared = np.square(found.maps.vectors[0]).sum(1)
        np.testing.assert_allclose(squared / (1 + squared), part_maps[n], atol=1e-5)
        # The dataset's boxes have its margin, which a predictor adds.
        predictor.padding, size = 1.25, person.box_size / 1.25
        tight = np.concatenate([person.center - size / 2, size])
        crop = predictor.predict(person.image, tight[None], maps=True).maps.crops[0].astype(int)
        assert np.abs(crop - batch["image"][n].numpy()).max() <= 1
        predictor.padding = 1.0
    # The comparison would say little if all joints were in one place.
    assert expected.std() > 5


@pytest.mark.parametrize("flip_test", [True, False])
def test_joints_are_where_the_picture_shows_them(flip_test: bool) -> None:
    places = [(61.0, 203.0), (322.0, 110.0)]
    boxes = [[11, 150, 100, 120], [280, 60, 90, 100]]
    found = finder(codec=Codec(decode_method="dark")).predict(
        dots(*places), boxes, flip_test=flip_test
    )
    assert found.joints.shape == (2, K, 2)
    for n, place in enumerate(places):
        # The flip test leaves a shift of up to a quarter of a score-map pixel, 0.6 px here.
        tolerance = 0.8 if flip_test else 0.2
        np.testing.assert_allclose(found.joints[n], np.tile(place, (K, 1)), atol=tolerance)
    right = np.array(["right" in name for name in COCO.joints])
    left = np.array(["left" in name for name in COCO.joints])
    # Mirrored, a right joint is as sure as a left one: both get the mean.
    ratio = 1.0 if flip_test else 0.5
    np.testing.assert_allclose(found.scores[:, right], ratio * found.scores[:, left], atol=0.01)


def test_whole_image_is_one_person_without_margin() -> None:
    found = finder(codec=Codec(decode_method="dark")).predict(dots((350, 40)), maps=True)
    assert found.boxes.tolist() == [[0, 0, 400, 300]]
    np.testing.assert_allclose(found.joints[0], np.tile((350, 40), (K, 1)), atol=1.3)
    # 400 px of width fill the crop's 256; above and below it is black.
    rows = np.flatnonzero(
        finder().predict(np.full((300, 400, 3), 255, np.uint8), maps=True).maps.crops[0].max((1, 2))
    )
    assert abs(len(rows) - 192) <= 1


def test_person_score_is_box_score_times_mean_of_sure_joints() -> None:
    image = dots((61, 203))
    found = finder().predict(image, [[11, 150, 100, 120]], box_scores=np.array([0.5]))
    sure = [s for s in found.scores[0].tolist() if s > 0.2]
    assert len(sure) == K
    assert found.person_scores[0] == pytest.approx(0.5 * sum(sure) / len(sure))
    empty = finder().predict(np.zeros_like(image), [[11, 150, 100, 120]])
    assert empty.person_scores.tolist() == [0]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_run_across_pictures_and_results_keep_their_order(batch_size: int) -> None:
    box = [11, 150, 100, 120]
    counts = [2, 0, 1, 3, 0]
    queries = [
        ImageWithBoxes(dots((50 + 5 * n, 203)), np.array([box] * count).reshape(-1, 4))
        for n, count in enumerate(counts)
    ]
    predictor = finder(batch_size=batch_size)
    found = list(predictor.predict_each(queries, flip_test=False))
    assert [len(prediction) for prediction in found] == counts
    for n, prediction in enumerate(found):
        assert prediction.joints.shape == (counts[n], K, 2)
        assert np.all(np.abs(prediction.joints[..., 0] - (50 + 5 * n)) < 1.5)
    full, rest = divmod(sum(counts), batch_size)
    assert predictor.forward.batches == [batch_size] * full + [rest] * (rest > 0)


def test_of_poses_of_one_person_the_best_stays() -> None:
    image = dots((61, 203), (300, 100))
    # Three boxes around the first dot, one around the second.
    boxes = np.array(
        [[11, 150, 100, 120], [250, 40, 100, 120], [13, 152, 100, 116], [9, 148, 104, 124]]
    )
    found = finder().predict(image, boxes, box_scores=np.array([0.3, 0.6, 0.9, 0.5]), maps=True)
    left = found.without_duplicates(0.9)
    assert left.box_scores.tolist() == pytest.approx([0.6, 0.9])
    for before, after, names in (
        (found, left, ("joints", "scores", "person_scores", "boxes")),
        (found.maps, left.maps, ("crops", "joint_maps", "to_image")),
    ):
        for name in names:
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name)[[1, 2]])
    assert found.without_duplicates(1.0) is found


def test_how_alike_poses_are_is_cocos_measure() -> None:
    image = dots((61, 203))
    found = finder().predict(image, [[11, 150, 100, 120], [11, 150, 100, 120]])
    # All joints 10 px to the right: exp(-10² / (2 area (2 sigma)²)), averaged over the joints.
    moved = replace(found, joints=found.joints + np.array([[[0, 0]], [[10, 0]]], np.float32))
    alike = np.mean([math.exp(-100 / (2 * 100 * 120 * (2 * s) ** 2)) for s in COCO.oks_sigmas])
    assert len(moved.without_duplicates(float(alike) - 1e-4)) == 1
    assert len(moved.without_duplicates(float(alike) + 1e-4)) == 2


def test_no_boxes_give_an_empty_prediction() -> None:
    found = finder().predict(dots((5, 5)), np.zeros((0, 4)))
    shapes = found.joints.shape, found.scores.shape, found.person_scores.shape
    assert shapes == ((0, K, 2), (0, K), (0,))
    assert len(found.without_duplicates()) == 0


@pytest.mark.parametrize(
    ("image", "boxes", "scores", "problem"),
    [
        (np.zeros((10, 10), np.uint8), None, None, "uint8"),
        (np.zeros((10, 10, 4), np.uint8), None, None, "uint8"),
        (np.zeros((10, 10, 3), np.float32), None, None, "float32"),
        (np.zeros((0, 10, 3), np.uint8), None, None, "shape"),
        (None, [1, 2, 3, 4], None, r"\(N, 4\)"),
        (None, [[1, 2, 3]], None, r"\(N, 4\)"),
        (None, [["a", 2, 3, 4]], None, "numbers"),
        (None, [[5, 5, 10, 10], [5, 5, 0, 10]], None, "box 1"),
        (None, [[5, 5, float("nan"), 10]], None, "box 0"),
        (None, [[400, 5, 10, 10]], None, "outside the image of 400x300"),
        (None, [[-20, 5, 20, 10]], None, "outside"),
        (None, [[1, 2, 3, 4]], np.ones(2), "box_scores"),
    ],
)
def test_what_is_no_rgb_image_or_box_is_refused(image, boxes, scores, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        finder().predict(dots((5, 5)) if image is None else image, boxes, box_scores=scores)


def test_vectors_need_the_network_itself() -> None:
    with pytest.raises(ValueError, match="runtime=torch"):
        finder().predict(dots((5, 5)), vectors=True)
    maps = finder().predict(dots((5, 5)), maps=True).maps
    assert maps.part_maps is None
    assert maps.joint_maps.shape == (1, K, 64, 64)


def test_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    for device in ("cuda:99", "toaster"):
        with pytest.raises(ValueError, match="cannot be used here"):
            choose_device(device)

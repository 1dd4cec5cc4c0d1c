"""Synthetic people: reproducible, anatomically consistent, drawn where the labels say."""

import hashlib
import inspect
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pnfs.data.synthetic_body import LANDMARKS, POSE_DRAWS, Draws, pose_people
from pnfs.data.synthetic_render import draw_person, random_appearance
from pycocotools.coco import COCO as CocoFile

from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.mpii import MPII
from pnfs.data.persons import OCCLUDED, UNLABELLED, VISIBLE, DataError
from pnfs.data.synthetic import Synthetic
from written_datasets import write_coco, write_mpii

LIMB_JOINTS = [
    f"{side}_{joint}"
    for side in ("left", "right")
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
]


def digest(source: Synthetic, order: list[int]) -> str:
    """Of the table and of some pictures, read in `order`."""
    persons = source.persons("val")
    pictures = {index: persons[index].image.tobytes() for index in order}
    content = persons.joints.tobytes() + persons.visibility.tobytes() + persons.box_size.tobytes()
    return hashlib.sha256(content + b"".join(pictures[i] for i in sorted(pictures))).hexdigest()


# --- The same people every time ------------------------------------------------------------------


def test_another_process_and_another_order_give_the_same_people():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_synthetic import Synthetic, digest\n"
        "print(digest(Synthetic(val=12, seed=3), [7, 2, 11, 0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.strip() == digest(Synthetic(val=12, seed=3), [0, 2, 7, 11])


def test_a_person_depends_on_seed_split_and_index_only():
    few, many = Synthetic(train=5).persons("train"), Synthetic(train=40, val=7).persons("train")
    np.testing.assert_array_equal(few.joints, many.joints[:5])
    np.testing.assert_array_equal(few[4].image, many[4].image)
    assert not np.array_equal(few.joints, Synthetic(train=5, seed=1).persons("train").joints)
    assert not np.array_equal(few.joints, Synthetic(val=5).persons("val").joints)


def test_both_skeletons_label_the_same_people():
    mpii = Synthetic("mpii", train=100).persons("train")
    coco = Synthetic("coco", train=100).persons("train")
    a, b = mpii.skeleton.indices(LIMB_JOINTS), coco.skeleton.indices(LIMB_JOINTS)
    np.testing.assert_array_equal(mpii.joints[:, a], coco.joints[:, b])
    np.testing.assert_array_equal(mpii.visibility[:, a], coco.visibility[:, b])
    np.testing.assert_array_equal(mpii.reference_length, coco.reference_length)
    np.testing.assert_array_equal(mpii[9].image, coco[9].image)


def test_the_image_source_travels_to_workers_as_a_few_bytes():
    images = Synthetic(train=10_000).persons("train").images
    content = pickle.dumps(images)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content).read(9_999), images.read(9_999))


# --- Labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("skeleton", ["mpii", "coco"])
def test_labelled_joints_lie_in_the_picture_and_others_are_zero(skeleton):
    source = Synthetic(skeleton, train=400, truncated=1.0, image_size=(128, 160))
    persons = source.persons("train")
    labelled = persons.visibility > UNLABELLED
    assert persons[0].image.shape == (128, 160, 3)
    assert 0.5 < labelled.mean() < 0.97
    assert (persons.joints[labelled] >= 0).all()
    assert (persons.joints[labelled] <= (159, 127)).all()
    assert (persons.joints[~labelled] == 0).all()


def test_share_of_unlabelled_joints():
    persons = Synthetic(train=2000, unlabelled=0.1, truncated=0.0).persons("train")
    assert (persons.visibility == UNLABELLED).mean() == pytest.approx(0.1, abs=0.01)
    whole = Synthetic(train=2000, unlabelled=0.0, truncated=0.0).persons("train")
    assert (whole.visibility > UNLABELLED).all()


def test_boxes_hold_the_joints():
    for skeleton in ("mpii", "coco"):
        persons = Synthetic(skeleton, train=300).persons("train")
        low = (persons.center - persons.box_size / 2.5)[:, None]
        high = (persons.center + persons.box_size / 2.5)[:, None]
        inside = ((persons.joints >= low - 1e-3) & (persons.joints <= high + 1e-3)).all(-1)
        assert inside[persons.visibility > UNLABELLED].all()


def test_the_coco_box_is_the_bounding_box_of_the_drawn_person():
    persons = Synthetic("coco", train=20, truncated=0.0, occluder=0.0).persons("train")
    for index in range(len(persons)):
        changed = drawn_mask(persons, index)
        ys, xs = np.nonzero(changed)
        low, high = persons.center[index] - persons.box_size[index] / 2.5, persons.center[index]
        high = high + persons.box_size[index] / 2.5
        np.testing.assert_allclose([xs.min(), ys.min()], low, atol=2.5)
        np.testing.assert_allclose([xs.max(), ys.max()], high, atol=2.5)


def test_head_size_is_that_of_mpii():
    persons = Synthetic(train=500, unlabelled=0.0, truncated=0.0).persons("train")
    top, neck = (persons.joints[:, persons.skeleton.joints.index(n)] for n in LANDMARKS[:2])
    # In MPII, too, the head box's 0.6 diagonal is a little shorter than head top to upper neck.
    ratio = persons.reference_length / np.linalg.norm(top - neck, axis=1)
    assert 0.55 < np.median(ratio) < 1.0
    assert np.median(persons.box_size[:, 0] / 1.25 / persons.reference_length) > 6


# --- Anatomy -------------------------------------------------------------------------------------


def chirality(joints: np.ndarray, skeleton) -> np.ndarray:
    """Positive where the chest is towards the viewer: left shoulder to the right, hips below."""
    names = ["left_shoulder", "right_shoulder", "left_hip", "right_hip"]
    left, right, left_hip, right_hip = np.moveaxis(joints[:, skeleton.indices(names)], 1, 0)
    across, down = left - right, (left_hip + right_hip - left - right) / 2
    return (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]) / np.linalg.norm(down, axis=1)


def test_left_and_right_agree_with_the_side_that_faces_the_camera():
    source = Synthetic("coco", train=2000, unlabelled=0.0, truncated=0.0)
    persons, skeleton = source.persons("train"), source.skeleton
    facing = persons.visibility[:, 0] > UNLABELLED  # The nose of a person seen from behind is not.
    assert 0.6 < facing.mean() < 0.8
    turn = chirality(persons.joints, skeleton)
    clear = np.abs(turn) > 0.5 * persons.reference_length
    assert clear.mean() > 0.9
    assert ((turn > 0) == facing)[clear].mean() > 0.99

    mirrored = persons.joints * (-1, 1)
    swapped = chirality(mirrored[:, skeleton.flip_permutation], skeleton)
    np.testing.assert_allclose(swapped, turn, rtol=1e-5)
    assert ((chirality(mirrored, skeleton) > 0) != facing)[clear].mean() > 0.99


def test_eyes_stand_on_the_same_sides_as_shoulders():
    persons = Synthetic("coco", train=1000, unlabelled=0.0).persons("train")
    seen = (persons.visibility[:, [1, 2, 5, 6]] > UNLABELLED).all(1)
    eyes, shoulders = (persons.joints[:, k] - persons.joints[:, k + 1] for k in (1, 5))
    along = (eyes * shoulders).sum(1)[seen]
    assert (along > 0).mean() > 0.97


def test_bodies_are_symmetric_and_rigid():
    uniforms = np.random.default_rng(0).random((500, POSE_DRAWS))
    people = pose_people(Draws(uniforms), turned_away=0.3)
    for first, second in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"),
                          ("knee", "ankle")):  # fmt: skip
        left, right = (
            np.linalg.norm(people.at(f"{side}_{first}") - people.at(f"{side}_{second}"), axis=1)
            for side in ("left", "right")
        )
        np.testing.assert_allclose(left, right, rtol=1e-9)
        assert 0.1 < left.min() < left.max() < 0.3
    middle = (people.at("left_hip") + people.at("right_hip")) / 2
    np.testing.assert_allclose(people.at("pelvis"), middle, atol=1e-12)
    upright = people.at("head_top")[:, 1] < people.at("pelvis")[:, 1]
    assert upright.mean() > 0.97


def test_poses_use_all_their_random_numbers():
    uniforms = np.random.default_rng(0).random((200, POSE_DRAWS))
    base = pose_people(Draws(uniforms), turned_away=0.5).points
    with pytest.raises(IndexError):
        pose_people(Draws(uniforms[:, :-1]), turned_away=0.5)
    for column in range(POSE_DRAWS):
        other = uniforms.copy()
        other[:, column] = 1 - other[:, column]
        assert not np.array_equal(pose_people(Draws(other), turned_away=0.5).points, base)


# --- Pictures ------------------------------------------------------------------------------------


def drawn_mask(persons, index: int) -> np.ndarray:
    """Where the labelled person changes the picture."""
    images = persons.images
    difference = cv2.absdiff(images.draw(index), images.draw(index, with_person=False))
    return difference.max(axis=2) > 3


def test_limbs_are_drawn_at_their_joints():
    persons = Synthetic(train=60).persons("train")
    joints = persons.skeleton.indices(LIMB_JOINTS)
    hit, mirrored_hit = [], []
    for index in range(len(persons)):
        mask = drawn_mask(persons, index)
        seen = persons.visibility[index, joints] == VISIBLE
        x, y = np.rint(persons.joints[index, joints][seen]).astype(int).T
        hit += mask[y, x].tolist()
        mirrored_hit += mask[y, mask.shape[1] - 1 - x].tolist()
    assert len(hit) > 500
    assert np.mean(hit) > 0.98
    assert np.mean(mirrored_hit) < 0.5


def test_side_cue_darkens_the_clothes_of_the_persons_right():
    def brightness(side_cue: bool) -> np.ndarray:
        source = Synthetic(train=120, occluder=0.0, noise=0, side_cue=side_cue)
        persons, pairs = source.persons("train"), []
        names = ["left_hip", "left_knee", "right_hip", "right_knee"]
        columns = source.skeleton.indices(names)
        for index in range(len(persons)):
            if (persons.visibility[index, columns] == VISIBLE).all():
                thighs = persons.joints[index, columns].reshape(2, 2, 2).mean(axis=1)
                x, y = np.rint(thighs).astype(int).T
                pairs.append(persons[index].image[y, x].mean(axis=1, dtype=float))
        return np.array(pairs)

    with_cue, without = brightness(True), brightness(False)
    assert len(with_cue) > 60
    assert np.mean(with_cue[:, 0] > 1.15 * with_cue[:, 1]) > 0.85
    assert np.mean(without[:, 0] > 1.15 * without[:, 1]) < 0.2


def test_visibility_flags_agree_with_the_drawn_occluder():
    covered = Synthetic(train=80, occluder=1.0, noise=0).persons("train")
    bare = Synthetic(train=80, occluder=0.0, noise=0).persons("train")
    np.testing.assert_array_equal(covered.joints, bare.joints)
    checked_hidden = checked_open = 0
    for index in range(len(covered)):
        # Two grey pixels may agree by chance; the shape is a region without holes.
        changed = cv2.absdiff(covered[index].image, bare[index].image).max(axis=2) > 0
        shape = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5)))
        well_inside, near = cv2.erode(shape, np.ones((5, 5))), cv2.dilate(shape, np.ones((5, 5)))
        for joint in np.flatnonzero(bare.visibility[index] > UNLABELLED):
            x, y = np.rint(covered.joints[index, joint]).astype(int)
            if well_inside[y, x]:
                assert covered.visibility[index, joint] == OCCLUDED
                checked_hidden += 1
            elif not near[y, x]:
                assert covered.visibility[index, joint] == bare.visibility[index, joint]
                checked_open += 1
    assert checked_hidden > 50
    assert checked_open > 500


@pytest.mark.parametrize("stem", ["arm", "leg"])
def test_self_occlusion_flags_agree_with_the_drawing(stem):
    """A hand or foot is hidden if, and only if, taking it away leaves the pixel there as it is."""
    middle, end, tip = {"arm": ("elbow", "wrist", "hand"), "leg": ("knee", "ankle", "toe")}[stem]
    rng = np.random.default_rng(5)
    count = 2500
    size = np.full(count, 300.0)
    people = pose_people(Draws(rng.random((count, POSE_DRAWS))), turned_away=0.4)
    people = people.placed(size, np.full((count, 2), 250.0))
    hidden = people.self_occluded()[:, LANDMARKS.index(f"left_{end}")]
    points = people.points.copy()
    for name in (end, tip):
        column = np.flatnonzero((people.points[0] == people.at(f"left_{name}")[0]).all(1))[0]
        points[:, column] = people.at(f"left_{middle}")
    amputated = replace(people, points=points)
    at = people.at(f"left_{end}")[:, :2]
    apart = np.linalg.norm(at - people.at(f"left_{middle}")[:, :2], axis=1) > 0.06 * 300
    unchanged = []
    rows = np.concatenate([np.flatnonzero(apart & h)[:100] for h in (hidden, ~hidden)])
    for row in rows:
        look = random_appearance(np.random.default_rng([1, row]), side_cue=False)
        pixels = []
        for figures in (people, amputated):
            canvas = np.full((500, 500, 3), 7, np.uint8)
            draw_person(canvas, figures, row, look)
            x, y = np.rint(at[row]).astype(int)
            pixels.append(canvas[y, x])
        unchanged.append(np.array_equal(*pixels))
    unchanged = np.array(unchanged)
    assert hidden[rows].sum() >= 15
    assert unchanged[hidden[rows]].mean() > 0.95
    assert unchanged[~hidden[rows]].mean() < 0.02


# --- Arguments and metric ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"skeleton": "lsp"}, "skeleton"),
        ({"image_size": (16, 192)}, "image_size"),
        ({"occluder": 1.5}, "occluder"),
        ({"bystanders": -1}, "bystanders"),
        ({"seed": -1}, "seed"),
        ({"noise": 300}, "noise"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(DataError, match=named):
        Synthetic(**arguments)


def test_no_persons_no_such_split_no_such_picture():
    with pytest.raises(DataError, match="no persons"):
        Synthetic(train=0).persons("train")
    with pytest.raises(DataError, match="test"):
        Synthetic().persons("test")
    with pytest.raises(DataError, match="there are only 3"):
        Synthetic(val=3).persons("val").images.read(3)


@pytest.mark.parametrize("skeleton", ["mpii", "coco"])
def test_metric_scores_shifts_of_known_size(skeleton):
    source = Synthetic(skeleton, val=20)
    persons = source.persons("val")
    shifts = {0.09: (100, 100, 100), 0.105: (100, 0, 100), 0.4: (100, 0, 0), 0.6: (0, 0, 0)}
    for shift, expected in shifts.items():
        metric = source.metric("val")
        target = torch.from_numpy(persons.joints)
        length = torch.from_numpy(persons.reference_length)
        metric.update(
            predicted=target + shift * length[:, None, None] * torch.tensor([1.0, 0.0]),
            joints_image=target,
            labelled=torch.from_numpy(persons.visibility > UNLABELLED),
            reference_length=length,
            sample_index=torch.arange(20),
        )
        scores = metric.compute()
        names = ("PCKh@0.5", "PCKh@0.1", "PCKh@0.11")
        assert tuple(float(scores[name]) for name in names) == expected


def test_shipped_configuration_states_the_defaults():
    path = Path(__file__).parents[2] / "conf" / "dataset" / "synthetic.yaml"
    config = OmegaConf.load(path)
    parameters = inspect.signature(Synthetic).parameters
    written = OmegaConf.to_container(config)
    assert written.pop("_target_") == "pnfs.data.synthetic.Synthetic"
    written["image_size"] = tuple(written["image_size"])
    assert written == {name: parameter.default for name, parameter in parameters.items()}
    made = instantiate(config).persons("val")
    np.testing.assert_array_equal(made.joints, Synthetic().persons("val").joints)
    np.testing.assert_array_equal(made[0].image, Synthetic().persons("val")[0].image)


# --- Writers -------------------------------------------------------------------------------------


def splits(skeleton: str) -> dict:
    source = Synthetic(skeleton, train=7, val=5, truncated=0.4, unlabelled=0.1)
    return {split: source.persons(split) for split in ("train", "val")}


def test_mpii_files_have_the_public_format(tmp_path):
    persons = splits("mpii")
    write_mpii(persons, tmp_path / "out")
    annot = tmp_path / "out" / "annot"
    for split, file in (("train", "train.json"), ("val", "valid.json")):
        records = json.loads((annot / file).read_text())
        assert len(records) == len(persons[split])
        for row, record in enumerate(records):
            sample = persons[split][row]
            assert np.shape(record["joints"]) == (16, 2)
            for place, name in ((0, "right_ankle"), (9, "head_top"), (15, "left_wrist")):
                joint = persons[split].skeleton.joints.index(name)
                labelled = bool(sample.visibility[joint])
                assert record["joints_vis"][place] == int(labelled)
                expected = sample.joints[joint] + 1 if labelled else (-1, -1)
                np.testing.assert_allclose(record["joints"][place], expected, atol=1e-4)
            scale = record["scale"]
            assert 1.25 * 200 * scale == pytest.approx(sample.box_size[0])
            center = np.add(record["center"], (-1, 15 * scale - 1))
            np.testing.assert_allclose(center, sample.center, atol=1e-4)
            picture = cv2.imread(str(tmp_path / "out" / "images" / record["image"]))
            np.testing.assert_array_equal(picture[..., ::-1], sample.image)
    truth = scipy.io.loadmat(annot / "gt_valid.mat")
    val = persons["val"]
    assert [str(name[0]) for name in truth["dataset_joints"][0][[0, 9, 15]]] == [
        "rank", "head", "lwri",
    ]  # fmt: skip
    assert truth["pos_gt_src"].shape == (16, 2, 5)
    head_top = truth["pos_gt_src"][9].T
    labelled = val.visibility[:, 0] > UNLABELLED
    np.testing.assert_array_equal(truth["jnt_missing"][9] == 0, labelled)
    np.testing.assert_allclose(head_top[labelled], val.joints[labelled, 0] + 1, atol=1e-4)
    assert (head_top[~labelled] == 0).all()
    boxes = truth["headboxes_src"]
    sizes = 0.6 * np.hypot(boxes[1, 0] - boxes[0, 0], boxes[1, 1] - boxes[0, 1])
    np.testing.assert_allclose(sizes, val.reference_length, rtol=1e-6)


def test_coco_files_have_the_public_format(tmp_path, capsys):
    persons = splits("coco")
    write_coco(persons, tmp_path / "out")
    seen_images: set[int] = set()
    for split in ("train", "val"):
        name = f"{split}2017"
        file = CocoFile(str(tmp_path / "out" / "annotations" / f"person_keypoints_{name}.json"))
        people = file.loadAnns(file.getAnnIds(catIds=[1], iscrowd=False))
        assert len(people) == len(persons[split])
        for row, person in enumerate(people):
            sample = persons[split][row]
            keypoints = np.array(person["keypoints"]).reshape(17, 3)
            np.testing.assert_allclose(keypoints[:, :2], sample.joints, atol=1e-4)
            np.testing.assert_array_equal(keypoints[:, 2], sample.visibility)
            assert person["num_keypoints"] == (sample.visibility > 0).sum()
            x, y, width, height = person["bbox"]
            center = (x + (width - 1) / 2, y + (height - 1) / 2)
            np.testing.assert_allclose(center, sample.center, atol=1e-3)
            assert 0 < person["area"] < width * height
            image = file.loadImgs(person["image_id"])[0]
            picture = cv2.imread(str(tmp_path / "out" / "images" / name / image["file_name"]))
            assert picture.shape[:2] == (image["height"], image["width"])
            np.testing.assert_array_equal(picture[..., ::-1], sample.image)
        assert not seen_images & set(file.getImgIds())
        seen_images |= set(file.getImgIds())


@pytest.mark.parametrize(
    ("skeleton", "write", "loader"), [("mpii", write_mpii, MPII), ("coco", write_coco, COCO)]
)
def test_loaders_read_back_what_was_written(tmp_path, skeleton, write, loader):
    persons = splits(skeleton)
    write(persons, tmp_path)
    loaded = loader(tmp_path)
    for split, expected in persons.items():
        found = loaded.persons(split)
        np.testing.assert_allclose(found.joints, expected.joints, atol=1e-4)
        np.testing.assert_allclose(found.center, expected.center, atol=1e-4)
        np.testing.assert_allclose(found.box_size, expected.box_size, atol=1e-3)
        np.testing.assert_array_equal(found.visibility > 0, expected.visibility > 0)
        np.testing.assert_array_equal(found[3].image, expected[3].image)


def test_persons_of_one_image_share_its_file(tmp_path):
    persons = splits("coco")
    persons["train"] = replace(persons["train"], image_index=np.array([0, 0, 0, 2, 2, 5, 5]))
    write_coco(persons, tmp_path)
    assert len(list((tmp_path / "images" / "train2017").iterdir())) == 3
    content = json.loads((tmp_path / "annotations/person_keypoints_train2017.json").read_text())
    assert len({person["image_id"] for person in content["annotations"]}) == 3


def test_jpeg_is_smaller_and_nearly_the_same(tmp_path):
    persons = splits("mpii")
    write_mpii(persons, tmp_path / "a", image_format="jpg")
    write_mpii(persons, tmp_path / "b")
    jpeg, png = (sorted((tmp_path / name / "images").iterdir()) for name in "ab")
    assert {path.suffix for path in jpeg} == {".jpg"}
    assert sum(p.stat().st_size for p in jpeg) < sum(p.stat().st_size for p in png)
    difference = cv2.absdiff(cv2.imread(str(jpeg[0])), cv2.imread(str(png[0])))
    assert 0 < difference.mean() < 4


def test_writers_refuse_what_they_cannot_write(tmp_path):
    persons = splits("mpii")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        write_mpii(persons, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious.txt"]
    with pytest.raises(DataError, match="is a file"):
        write_mpii(persons, tmp_path / "full" / "precious.txt")
    with pytest.raises(DataError, match="skeleton mpii"):
        write_coco(persons, tmp_path / "new")
    with pytest.raises(DataError, match="train and val"):
        write_mpii({"train": persons["train"]}, tmp_path / "new")
    with pytest.raises(DataError, match="gif"):
        write_mpii(persons, tmp_path / "new", image_format="gif")
    unknown = replace(persons["val"], reference_length=np.full(5, np.nan, np.float32))
    with pytest.raises(DataError, match="val-000000 has no head size"):
        write_mpii({**persons, "val": unknown}, tmp_path / "scored")
    assert not (tmp_path / "new").exists()

"""Inspections of datasets: sets broken in a known way, and good ones that must pass."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from numpy.random import Generator
from PIL import Image
from pnfs.data.check.dataset import check_counts, inspect_dataset
from pnfs.data.check.findings import Finding
from pnfs.data.check.images import inspect_file
from pnfs.data.check.joints import (
    check_limb_lengths,
    check_pixel_base,
    check_sides,
    check_upright,
    distance_profile,
    likely_order,
    reference_profile,
)

from pnfs.body import COCO as COCO_SKELETON
from pnfs.body import LSP
from pnfs.body import MPII as MPII_SKELETON
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.mpii import FILE_JOINTS, MPII
from pnfs.data.persons import DataError, ImageFiles, Persons
from pnfs.data.synthetic import Synthetic
from written_datasets import write_coco, write_mpii

SPLITS = ("train", "val")
JSON = {"train": "annot/train.json", "val": "annot/valid.json"}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small sets of synthetic people in the layouts of MPII and COCO, unharmed."""
    folder = tmp_path_factory.mktemp("exported")
    for name, write in (("mpii", write_mpii), ("coco", write_coco)):
        source = Synthetic(name, train=16, val=12, image_size=(64, 64), seed=3, truncated=0.0)
        write({s: source.persons(s) for s in SPLITS}, folder / name, image_format="jpg")
    return folder


@pytest.fixture
def mpii(exported: Path, tmp_path: Path) -> Path:
    """A copy of the MPII set to break."""
    return Path(shutil.copytree(exported / "mpii", tmp_path / "mpii"))


@pytest.fixture
def coco(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported / "coco", tmp_path / "coco"))


def inspected(folder: Path, kind: Callable[..., MPII | COCO] = MPII) -> list[Finding]:
    return inspect_dataset(kind(folder, check_images=False), workers=2)


def by_check(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


def serious(findings: list[Finding]) -> set[str]:
    return {finding.check for finding in findings if finding.severity != "note"}


def change_json(path: Path, change: Callable[[list[dict]], None]) -> None:
    records = json.loads(path.read_text())
    change(records)
    path.write_text(json.dumps(records))


def people(name: str = "mpii", count: int = 200, **knobs: float) -> Persons:
    return Synthetic(name, train=count, seed=11, **knobs).persons("train")


def with_columns(persons: Persons, order: list[int] | np.ndarray) -> Persons:
    """The persons whose column k holds what stood in column order[k]."""
    return Persons(
        **{
            **vars(persons),
            "joints": persons.joints[:, order],
            "visibility": persons.visibility[:, order],
        }
    )


# --- good sets


@pytest.mark.parametrize(("name", "kind"), [("mpii", MPII), ("coco", COCO)])
def test_good_set_raises_no_alarm(exported: Path, name: str, kind: type) -> None:
    findings = inspected(exported / name, kind)
    assert {finding.check for finding in findings} == {"number of persons"}
    assert {finding.severity for finding in findings} == {"note"}
    assert any("16 usable persons" in finding.problem for finding in findings)


@pytest.mark.parametrize("name", ["mpii", "coco"])
@pytest.mark.parametrize("seed", [0, 1])
def test_good_people_raise_no_alarm(name: str, seed: int) -> None:
    source = Synthetic(name, train=150, val=40, seed=seed, image_size=(64, 64), truncated=0.3)
    assert inspect_dataset(source, images="sample", sample=8) == []


# --- images


def test_truncated_and_missing_images_are_both_found(mpii: Path) -> None:
    paths = sorted((mpii / "images").glob("train_*"))
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[: len(content) * 2 // 3])
    paths[5].unlink()
    findings = inspected(mpii)
    assert serious(findings) == {"missing images", "damaged images"}
    [missing], [damaged] = (
        by_check(findings, "missing images"),
        by_check(findings, "damaged images"),
    )
    assert missing.records == (paths[5].name,)
    assert "1 of 16 images" in missing.problem
    assert damaged.where == str(paths[2])
    assert "truncated" in damaged.problem
    assert len(damaged.records) == 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
def test_any_truncation_is_seen(tmp_path: Path, share: float) -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (80, 60, 3), np.uint8)
    for suffix in (".jpg", ".png"):
        path = tmp_path / f"picture{suffix}"
        cv2.imwrite(str(path), picture)
        assert inspect_file(path).size == (80, 60)
        assert inspect_file(path).problem is None
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        report = inspect_file(path)
        assert report.size is None
        assert report.problem


def test_what_is_no_image_is_said(tmp_path: Path) -> None:
    empty, page = tmp_path / "empty.jpg", tmp_path / "page.jpg"
    empty.touch()
    page.write_text("<!DOCTYPE html><html>Not found</html>")
    assert "empty" in (inspect_file(empty).problem or "")
    assert "<!DOCTYPE" in (inspect_file(page).problem or "")


def store_turned(path: Path, orientation: int, turn: int) -> None:
    """Rewrites a picture as a camera does that was held askew: turned pixels, and the entry that undoes it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.rot90(np.asarray(Image.open(path)), turn)
    Image.fromarray(pixels).save(path, quality=95, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "turn", "named"), [(3, 2, "180°"), (6, 1, "90°"), (8, 3, "270°")]
)
@pytest.mark.parametrize(("name", "kind"), [("mpii", MPII), ("coco", COCO)])
def test_turned_images_are_reported(
    exported: Path, tmp_path: Path, name: str, kind: type, orientation: int, turn: int, named: str
) -> None:
    folder = Path(shutil.copytree(exported / name, tmp_path / name))
    paths = sorted((folder / "images").rglob("*.jpg"))
    stored = cv2.imread(str(paths[0]), cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_COLOR_RGB)
    store_turned(paths[0], orientation, turn)
    source = kind(folder, check_images=False)
    # Training reads pixels as they are stored, so that labels of the upright picture do not fit.
    persons = source.persons("train")
    row = [persons.images.describe(n) for n in range(len(persons.images))].index(paths[0].name)
    difference = np.abs(persons.images.read(row).astype(int) - np.rot90(stored, turn)).mean()
    assert difference < 8
    [turned] = by_check(inspected(folder, kind), "image orientation")
    assert turned.severity == "warning"
    assert paths[0].name in turned.problem
    assert named in turned.problem
    assert len(turned.records) == 1


def test_upright_images_are_not_reported(mpii: Path) -> None:
    store_turned(sorted((mpii / "images").iterdir())[0], 1, 0)
    assert by_check(inspected(mpii), "image orientation") == []


def test_numbers_that_training_cannot_read_are_reported(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 48).reshape(6, 8)
    for name, values, readable in (
        ("float.tif", ramp.astype(np.float32), False),
        ("wide.tif", (65535 * ramp).astype(np.int32), False),
        ("black.png", (200 * ramp).astype(np.uint16), False),
        ("good.tif", (65535 * ramp).astype(np.uint16), True),
        ("good.png", (65535 * ramp).astype(np.uint16), True),
    ):
        Image.fromarray(values).save(tmp_path / name)
        assert (inspect_file(tmp_path / name).problem is None) == readable, name
        images = ImageFiles(tmp_path, [name])
        if readable:
            found = images.read(0)[..., 0]
            np.testing.assert_allclose(found, 255 * ramp, atol=1.01)
        elif name != "black.png":
            with pytest.raises(DataError, match=name):
                images.read(0)


def test_sample_reads_only_some_images(mpii: Path) -> None:
    paths = sorted((mpii / "images").glob("train_*"))
    paths[1].write_bytes(b"")
    source = MPII(mpii, check_images=False)
    assert by_check(inspect_dataset(source, images="none"), "damaged images") == []
    # First and last image are in every sample.
    assert by_check(inspect_dataset(source, images="sample", sample=2), "damaged images") == []
    assert len(by_check(inspect_dataset(source, images="all"), "damaged images")) == 1


def test_resized_images_are_found(coco: Path) -> None:
    for path in (coco / "images/val2017").iterdir():
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (32, 32)))
    findings = inspected(coco, COCO)
    [sizes] = by_check(findings, "image sizes")
    assert "12 images" in sizes.problem
    assert "32×32, not 64×64" in sizes.problem
    [outside] = by_check(findings, "joints outside images")
    assert (outside.severity, outside.where) == ("error", "COCO val")


# --- annotation files


def test_damaged_annotations_do_not_hide_the_rest(mpii: Path) -> None:
    path = mpii / JSON["train"]
    path.write_text(path.read_text()[:500])
    image = sorted((mpii / "images").glob("val_*"))[0]
    image.unlink()
    findings = inspected(mpii)
    [damaged] = by_check(findings, "annotation files")
    assert "train.json: is truncated" in damaged.problem
    [missing] = by_check(findings, "missing images")
    assert missing.records == (image.name,)


def test_loader_refuses_are_findings_with_advice(tmp_path: Path) -> None:
    # The source itself refuses; the command turns that into a finding.
    from pnfs.data.check.findings import finding_of_error

    with pytest.raises(DataError) as refused:
        MPII(tmp_path)
    finding = finding_of_error(refused.value, "layout", str(tmp_path))
    assert finding.severity == "error"
    assert "gt_valid.mat" in finding.problem
    assert "http://human-pose.mpi-inf.mpg.de" in finding.advice


def test_counts_against_published_numbers(exported: Path) -> None:
    source = MPII(exported / "mpii")
    assert check_counts(source, "train", 22246) == []
    [few], [selection] = check_counts(source, "train", 22240), check_counts(source, "val", 100)
    assert (few.severity, selection.severity) == ("warning", "note")
    assert "22,246" in few.problem
    assert "2,958" in selection.problem


def test_duplicates_and_overlap(mpii: Path) -> None:
    change_json(mpii / JSON["train"], lambda records: records.append(records[4]))
    shared = json.loads((mpii / JSON["val"]).read_text())[7]
    change_json(mpii / JSON["train"], lambda records: records.append(shared))
    findings = inspected(mpii)
    [copies] = by_check(findings, "duplicate records")
    assert copies.records == ("train/00016 = train/00004",)
    [overlap] = by_check(findings, "persons in two splits")
    assert overlap.records == ("val/00007",)


def test_same_picture_under_another_name(mpii: Path) -> None:
    source = sorted((mpii / "images").glob("val_*"))[3]
    shutil.copy(source, sorted((mpii / "images").glob("train_*"))[2])
    [same] = by_check(inspected(mpii), "duplicate images")
    assert same.severity == "warning"
    assert source.name in same.records[0]


# --- MPII's pixels and files


def test_zero_based_mpii_is_found(mpii: Path) -> None:
    def to_zero_based(records: list[dict]) -> None:
        for record in records:
            record["joints"] = (np.array(record["joints"]) - 1).tolist()

    for split in SPLITS:
        change_json(mpii / JSON[split], to_zero_based)
    findings = inspected(mpii)
    assert serious(findings) == {"pixel base"}
    [base] = by_check(findings, "pixel base")
    assert "(-1.0, -1.0)" in base.problem
    assert "0-based" in base.problem


def clipped_people(random: Generator, shift: int) -> list:
    """Joints of people cut off by their picture's edge, all coordinates shifted."""
    size = np.array([[120.0, 90.0]] * 300)
    joints = np.round(random.normal(50, 45, (300, 16, 2))).clip(0, (119, 89))
    return [(joints + shift, np.ones((300, 16), bool), size)]


@pytest.mark.parametrize(
    ("shift", "from_one", "said"),
    [(-1, True, "0-based"), (1, False, "1-based"), (-1, False, "too small"), (0, True, None)],
)
def test_pixel_base_shows_at_the_edges(shift: int, from_one: bool, said: str | None) -> None:
    places = clipped_people(np.random.default_rng(1), shift)
    findings = check_pixel_base(places, "here", stored_from_one=from_one)
    assert [said in finding.problem for finding in findings if said] == ([True] if said else [])
    assert bool(findings) == bool(said)


def test_pixel_base_needs_evidence() -> None:
    joints = np.random.default_rng(2).uniform(0, 59, (500, 16, 2))
    places = [(joints, np.ones((500, 16), bool), np.full((500, 2), 60.0))]
    assert check_pixel_base(places, "here", stored_from_one=True) == []


def change_truth(mpii: Path, **changed: Callable[[np.ndarray], np.ndarray]) -> None:
    path = mpii / "annot/gt_valid.mat"
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    scipy.io.savemat(path, content | {name: f(content[name]) for name, f in changed.items()})


def test_persons_in_another_order_than_the_evaluation(mpii: Path) -> None:
    change_truth(mpii, pos_gt_src=lambda a: np.roll(a, 1, axis=2))
    findings = inspected(mpii)
    assert serious(findings) == {"annotation files"}
    assert "12 of 12 persons" in by_check(findings, "annotation files")[0].problem


def test_head_boxes_of_other_persons(mpii: Path) -> None:
    change_truth(mpii, headboxes_src=lambda a: a + 40)
    findings = inspected(mpii)
    assert serious(findings) == {"head boxes"}


def test_single_joints_that_disagree(mpii: Path) -> None:
    labelled = scipy.io.loadmat(mpii / "annot/gt_valid.mat")["jnt_missing"][0] == 0
    person = int(np.flatnonzero(labelled)[0])

    def move(positions: np.ndarray) -> np.ndarray:
        positions = positions.copy()
        positions[0, 0, person] += 9
        return positions

    change_truth(mpii, pos_gt_src=move)
    [finding] = by_check(inspected(mpii), "annotation files")
    assert finding.severity == "warning"
    assert finding.records == (f"val/{person:05d} right_ankle",)


def test_damaged_truth_is_a_finding(mpii: Path) -> None:
    change_truth(mpii, jnt_missing=lambda a: a[:, :5])
    [finding] = by_check(inspected(mpii), "annotation files")
    assert finding.severity == "error"
    assert "12 persons" in finding.problem


# --- joint order


def test_shuffled_joint_order_is_found_in_both_splits(mpii: Path) -> None:
    order = np.random.default_rng(5).permutation(16)

    def shuffle(records: list[dict]) -> None:
        for record in records:
            record["joints"] = [record["joints"][k] for k in order]
            record["joints_vis"] = [record["joints_vis"][k] for k in order]

    for split in SPLITS:
        change_json(mpii / JSON[split], shuffle)
    found = by_check(inspected(mpii), "joint order")
    assert {finding.where for finding in found} == {"MPII train", "MPII val", "annot/valid.json"}
    exact = next(finding for finding in found if finding.where == "annot/valid.json")
    moved = {f"{FILE_JOINTS[k]} holds {FILE_JOINTS[j]}" for k, j in enumerate(order) if k != j}
    assert set(exact.records) == moved


def relative_to_mirror(order: np.ndarray, flip: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(order.tolist()), tuple(flip[order].tolist())}


@pytest.mark.parametrize("skeleton", [MPII_SKELETON, COCO_SKELETON, LSP], ids=lambda s: s.name)
@pytest.mark.parametrize("count", [12, 200])
def test_order_of_columns_is_recovered(skeleton, count: int) -> None:
    """Proportions alone tell which joint each column holds, up to a mirrored person."""
    names = [{"neck": "upper_neck"}.get(name, name) for name in skeleton.joints]
    persons = people("coco" if skeleton.name == "coco" else "mpii", count)
    columns = persons.skeleton.indices(names)
    reference = reference_profile(skeleton)
    assert reference is not None
    random = np.random.default_rng(count)
    for _ in range(3):
        order = random.permutation(len(skeleton))
        joints = persons.joints[:, columns][:, order]
        labelled = persons.visibility[:, columns][:, order] > 0
        profile = distance_profile(joints, labelled)
        found, as_named, as_found = likely_order(profile, reference, skeleton.flip_permutation)
        assert tuple(found.tolist()) in relative_to_mirror(order, skeleton.flip_permutation)
        assert as_found < 0.5 * as_named


def test_profile_is_the_median_of_plain_loops() -> None:
    random = np.random.default_rng(7)
    joints, labelled = random.normal(size=(9, 4, 2)), random.random((9, 4)) < 0.8
    labelled[:2] = True
    expected = np.zeros((4, 4))
    for a in range(4):
        for b in set(range(4)) - {a}:
            values = []
            for person, known in zip(joints, labelled, strict=True):
                pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
                pairs = [(i, j) for i, j in pairs if known[i] and known[j]]
                if known[a] and known[b]:
                    mean = np.mean([np.hypot(*(person[i] - person[j])) for i, j in pairs])
                    values.append(np.hypot(*(person[a] - person[b])) / mean)
            expected[a, b] = np.median(values)
    np.testing.assert_allclose(distance_profile(joints, labelled), expected, rtol=1e-12)


# --- sides, uprightness, limbs


def test_exchanged_sides_of_everybody_are_found() -> None:
    persons = people()
    assert check_sides(persons) == []
    exchanged = with_columns(persons, persons.skeleton.flip_permutation)
    [finding] = check_sides(exchanged)
    assert finding.severity == "warning"


def test_exchanged_axes_are_found() -> None:
    persons = people()
    assert check_upright(persons) == []
    upside_down = Persons(**{**vars(persons), "joints": persons.joints * np.float32([1, -1])})
    assert [finding.check for finding in check_upright(upside_down)] == ["upright persons"]


def test_wild_label_is_named() -> None:
    persons = people(unlabelled=0.0, truncated=0.0)
    assert check_limb_lengths(persons) == []
    joints = persons.joints.copy()
    joints[17, persons.skeleton.joints.index("left_wrist")] += (150, 0)
    [finding] = check_limb_lengths(Persons(**{**vars(persons), "joints": joints}))
    assert finding.severity == "note"
    assert finding.records == (f"{persons.ids[17]} (left_elbow–left_wrist)",)

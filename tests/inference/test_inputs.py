"""Which files are meant, in which order, under which names; what cannot be read."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pnfs.data.persons import DataError
from pnfs.inference.inputs import (
    Video,
    counted_by_suffix,
    find_inputs,
    natural_key,
    passed_over,
    read_picture,
)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(found) -> list[str]:
    return [file.name for file in found]


def test_folder_is_searched_in_natural_order(tmp_path: Path) -> None:
    touch(
        tmp_path, "f10.jpg", "f9.JPG", "f1.png", "sub/f2.webp", "notes.txt", ".hidden.jpg", "v.mp4"
    )
    found = find_inputs(tmp_path, tmp_path / "out")
    assert names(found) == ["f1.png", "f9.JPG", "f10.jpg", "sub/f2.webp", "v.mp4"]
    assert [file.is_video for file in found] == [False] * 4 + [True]
    assert all(file.path.is_absolute() for file in found)


def test_natural_order_compares_numbers_by_value() -> None:
    ordered = ["a/1.jpg", "a/2.jpg", "a/10.jpg", "a/10b.jpg", "b/3.jpg", "b/x.jpg"]
    assert sorted(map(Path, reversed(ordered)), key=natural_key) == [Path(p) for p in ordered]


def test_same_stems_keep_apart(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.jpg", "b/x.jpg", "b/x.png")
    together = find_inputs([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert names(together) == ["a/x.jpg", "b/x.jpg", "b/x.png"]
    one_by_one = find_inputs([tmp_path / "b" / "x.jpg", tmp_path / "a" / "x.jpg"], tmp_path / "out")
    assert names(one_by_one) == ["b/x.jpg", "a/x.jpg"]


def test_glob_takes_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/x1.jpg", "b/x2.jpg", "b/y.jpg", "b/x.txt", "odd[1].jpg")
    assert names(find_inputs(f"{tmp_path}/*/x*", tmp_path / "out")) == ["a/x1.jpg", "b/x2.jpg"]
    assert names(find_inputs(f"{tmp_path}/odd[1].jpg", tmp_path / "out")) == ["odd[1].jpg"]
    monkeypatch.chdir(tmp_path)
    assert names(find_inputs("b/../a/*.jpg", Path("out"))) == ["x1.jpg"]


def test_earlier_results_are_no_input(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg", "out/overlays/x.jpg")
    assert names(find_inputs(tmp_path, tmp_path / "out")) == ["x.jpg"]


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    for asked, problem in (
        (tmp_path, "neither a picture nor a video"),
        (tmp_path / "absent.jpg", "no such file"),
        (f"{tmp_path}/*.jpg", "neither"),
        ([], "no input"),
    ):
        with pytest.raises(DataError, match=problem):
            find_inputs(asked, tmp_path / "out")


def test_files_passed_over_are_counted_by_kind(tmp_path: Path) -> None:
    touch(
        tmp_path, "in/a.jpg", "in/b.heic", "in/c.HEIC", "in/sub/d.gif", "in/notes", "in/.hidden",
        "out/overlays/e.gif",
    )  # fmt: skip
    out = tmp_path / "out"
    others = passed_over(tmp_path, out)
    assert sorted(path.name for path in others) == ["b.heic", "c.HEIC", "d.gif", "notes"]
    assert counted_by_suffix(others) == (
        ".gif 1 (d.gif), .heic 2 (b.heic, c.HEIC), no suffix 1 (notes)"
    )
    assert [path.name for path in passed_over(f"{tmp_path}/in/*.heic", out)] == ["b.heic"]
    both = passed_over([tmp_path / "in", tmp_path / "in/sub", tmp_path / "in/a.jpg"], out)
    assert len(both) == 4
    # A file that is asked for by name is not passed over but read, or refused.
    assert passed_over(tmp_path / "in/b.heic", out) == []


def test_a_folder_of_unknown_pictures_names_them(tmp_path: Path) -> None:
    touch(tmp_path, "a.heic", "b.gif")
    with pytest.raises(DataError) as caught:
        find_inputs(tmp_path, tmp_path / "out")
    assert "a.heic" in str(caught.value)
    assert "b.gif" in str(caught.value)


def test_a_missing_relative_input_is_located(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        find_inputs("pictures", tmp_path / "out")
    assert str(tmp_path / "pictures") in str(caught.value)


RAMP = np.linspace(0, 1, 2400).reshape(40, 60)


@pytest.mark.parametrize(
    ("suffix", "values"),
    [
        (".tif", RAMP.astype(np.float32)),
        (".tif", (255 * RAMP).astype(np.float32)),
        (".tif", (65535 * RAMP).astype(np.float32)),
        (".tif", (65535 * RAMP).astype(np.uint16)),
        (".png", (65535 * RAMP).astype(np.uint16)),
        (".tif", (65535 * RAMP).astype(np.int32)),
        (".tif", (255 * RAMP).astype(np.int32)),
    ],
)
def test_numbers_of_any_kind_are_scaled(tmp_path: Path, suffix: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / f"x{suffix}")
    found = read_picture(tmp_path / f"x{suffix}").astype(float)
    np.testing.assert_allclose(found, np.repeat((255 * RAMP)[..., None], 3, -1), atol=1.01)


@pytest.mark.parametrize(
    "values",
    [
        (RAMP - 0.5).astype(np.float32),
        np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32),
        np.where(RAMP > 0.5, np.inf, RAMP).astype(np.float32),
        (1e6 * RAMP).astype(np.float32),
        (1e6 * RAMP).astype(np.int32),
        (200 * RAMP).astype(np.uint16),
    ],
)
def test_numbers_without_a_scale_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif"):
        read_picture(tmp_path / "x.tif")


def test_black_stays_black(tmp_path: Path) -> None:
    for values in (np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint16)):
        Image.fromarray(values).save(tmp_path / "x.tif")
        assert not read_picture(tmp_path / "x.tif").any()


def photograph() -> np.ndarray:
    y, x = np.mgrid[:40, :60]
    return np.stack([4 * x, 6 * y, 255 - 4 * x], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg"])
def test_pictures_come_in_rgb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    Image.fromarray(photograph()).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    difference = np.abs(read_picture(path).astype(int) - photograph())
    assert difference.mean() < (3 if suffix == ".jpg" else 0.01)


def test_grey_wide_and_transparent_pictures_become_rgb(tmp_path: Path) -> None:
    grey = photograph()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    rgba = np.concatenate([photograph(), np.full((40, 60, 1), 200, np.uint8)], -1)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    threefold = np.repeat(grey[..., None], 3, -1)
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png"), threefold)
    np.testing.assert_array_equal(read_picture(tmp_path / "wide.png"), threefold)
    np.testing.assert_array_equal(read_picture(tmp_path / "rgba.png"), photograph())


def test_camera_orientation_is_followed_unless_stored_pixels_are_asked_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned clockwise.
    Image.fromarray(photograph()).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png"), np.rot90(photograph(), -1))
    stored = read_picture(tmp_path / "x.png", upright=False)
    np.testing.assert_array_equal(stored, photograph())


def test_damaged_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(photograph()).save(tmp_path / "x.jpg", quality=95)
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("cut.jpg", "text.jpg", "empty.jpg", "absent.jpg"):
        with pytest.raises(DataError, match=name):
            read_picture(tmp_path / name)


def write_video(path: Path, count: int, size=(48, 64), fps=10.0) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (size[1], size[0]))
    for n in range(count):
        # Blue grows, in OpenCV's BGR.
        writer.write(np.full((*size, 3), (20 * n, 10, 200), np.uint8))
    writer.release()


def test_video_gives_all_frames_in_rgb(tmp_path: Path) -> None:
    write_video(tmp_path / "v.avi", 7)
    video = Video(tmp_path / "v.avi")
    frames = list(video)
    assert len(frames) == 7 == video.stated_frames
    assert video.fps == pytest.approx(10)
    for n, frame in enumerate(frames):
        np.testing.assert_allclose(frame.mean((0, 1)), (200, 10, 20 * n), atol=6)


def test_damaged_videos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "absent.mp4"):
        with pytest.raises(DataError, match="not a readable video"):
            Video(tmp_path / name)


def test_video_that_ends_too_early_says_so_after_its_last_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.avi", 6)
    shutil.copy(tmp_path / "v.avi", tmp_path / "w.avi")
    video = Video(tmp_path / "w.avi")
    monkeypatch.setattr(video, "stated_frames", 60)
    seen = []
    with pytest.raises(DataError, match="only 6 of 60 frames"):
        seen.extend(1 for _ in video)
    frames = iter(video)
    assert sum(1 for _, _ in zip(range(6), frames, strict=False)) == 6

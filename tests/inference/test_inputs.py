"""Which files are meant, in which order, under which names; what cannot be read."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from pnfs.data.images import DataError
from pnfs.inference.inputs import Video, find_inputs, read_picture


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(asked, exclude: Path) -> list[str]:
    return [file.name for file in find_inputs(asked, exclude)[0]]


def test_folder_is_searched_in_natural_order(tmp_path: Path) -> None:
    expected = ["f1.png", "f9.JPG", "f10.jpg", "f10b.jpg", "sub/f2.webp", "sub/x.jpg", "v.mp4"]
    touch(tmp_path, *reversed(expected), "notes.txt", ".hidden.jpg", "out/overlays/x.jpg")
    found, others = find_inputs(tmp_path, tmp_path / "out")
    assert [file.name for file in found] == expected
    assert [file.name for file in found if file.is_video] == ["v.mp4"]
    assert all(file.path.is_absolute() for file in found)
    assert [path.name for path in others] == ["notes.txt"]
    # Earlier results are no input, but where they are asked for by name.
    with pytest.raises(DataError, match="results"):
        find_inputs(tmp_path / "out/overlays", tmp_path / "out")
    assert names(tmp_path / "out/overlays/x.jpg", tmp_path / "out") == ["x.jpg"]


def test_names_stay_apart_and_globs_take_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/x.jpg", "b/x.jpg", "b/x.png", "b/x.txt", "odd[1].jpg", "my photo (1).jpg")
    out = tmp_path / "out"
    assert names([tmp_path / "a", tmp_path / "b"], out) == ["a/x.jpg", "b/x.jpg", "b/x.png"]
    assert names([tmp_path / "b/x.jpg", tmp_path / "a/x.jpg"], out) == ["b/x.jpg", "a/x.jpg"]
    assert names(f"{tmp_path}/*/x.j*", out) == ["a/x.jpg", "b/x.jpg"]
    for odd in ("odd[1].jpg", "my photo (1).jpg"):
        assert names(f"{tmp_path}/{odd}", out) == [odd]
    monkeypatch.chdir(tmp_path)
    assert names("b/../a/*.jpg", Path("out")) == ["x.jpg"]


def test_nothing_to_read_is_refused_with_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/a.heic", "in/b.HEIC", "in/notes")
    monkeypatch.chdir(tmp_path)
    for asked, named in (("in", "a.heic, b.HEIC, notes"), ("absent.jpg", str(tmp_path)), ([], "no input")):
        with pytest.raises(DataError, match=named):
            find_inputs(asked, tmp_path / "out")
    # A file that is asked for by name is read, or refused when it is.
    assert names(tmp_path / "in/a.heic", tmp_path / "out") == ["a.heic"]


# --- pictures

Y, X = np.mgrid[:40, :60]
PHOTOGRAPH = np.stack([4 * X, 6 * Y, 255 - 4 * X], -1).astype(np.uint8)


def test_grey_transparent_and_turned_pictures(tmp_path: Path) -> None:
    grey, path, exif = PHOTOGRAPH[..., 0], tmp_path / "x.png", Image.Exif()
    exif[0x0112] = 6  # To be turned clockwise.
    rgba = np.concatenate([PHOTOGRAPH, np.full((40, 60, 1), 200, np.uint8)], -1)
    for content, options, expected in (
        (grey, {}, np.repeat(grey[..., None], 3, -1)),
        (rgba, {}, PHOTOGRAPH),
        (PHOTOGRAPH, {"exif": exif}, np.rot90(PHOTOGRAPH, -1)),
    ):
        Image.fromarray(content).save(path, **options)
        np.testing.assert_array_equal(read_picture(path), expected)
    np.testing.assert_array_equal(read_picture(path, upright=False), PHOTOGRAPH)
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif: .*8 bits"):
        read_picture(tmp_path / "x.tif")


def test_damaged_and_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(PHOTOGRAPH).save(tmp_path / "x.jpg", quality=95)
    content = bytearray((tmp_path / "x.jpg").read_bytes())
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    for name in ("cut.jpg", "text.jpg", "absent.jpg"):
        with pytest.raises(DataError, match=name):
            read_picture(tmp_path / name)
    # The header of a huge picture is enough.
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = (12000).to_bytes(2, "big") * 2
    (tmp_path / "x.jpg").write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
        with pytest.raises(DataError, match=r"x\.jpg.*12000x12000"):
            read_picture(tmp_path / "x.jpg")
    write_video(tmp_path / "v.avi", 2)
    monkeypatch.setattr("pnfs.data.images.MOST_PIXELS", 1000)
    with pytest.raises(DataError, match=r"v\.avi"):
        Video(tmp_path / "v.avi")


# --- videos


def write_video(path: Path, count: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for n in range(count):
        # Blue grows, in OpenCV's BGR.
        writer.write(np.full((48, 64, 3), (20 * n, 10, 200), np.uint8))
    writer.release()


def test_video_gives_all_frames_in_rgb_and_a_cut_one_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.avi", 7)
    video = Video(tmp_path / "v.avi")
    frames = list(video)
    assert len(frames) == 7 == video.stated_frames
    assert video.fps == pytest.approx(10)
    for n, frame in enumerate(frames):
        np.testing.assert_allclose(frame.mean((0, 1)), (200, 10, 20 * n), atol=6)
    monkeypatch.setattr(video, "stated_frames", 60)
    seen = []
    with pytest.raises(DataError, match="only 7 of 60 frames"):
        seen.extend(1 for _ in video)
    assert len(seen) == 7
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "absent.mp4"):
        with pytest.raises(DataError, match="not a readable video"):
            Video(tmp_path / name)

"""`pnfs predict`: poses in pictures and videos."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import Progress
from rich.prompt import Confirm

from pnfs.commands.building import build_network
from pnfs.commands.configuration import UsageError, console
from pnfs.commands.scoring import described, result_folder
from pnfs.data.images import DataError
from pnfs.data.persons import listed
from pnfs.inference import choose_device
from pnfs.inference.boxes import BoxSource, CocoBoxes, PersonDetector, WholeImage, read_frames
from pnfs.inference.inputs import InputFile, Video, find_inputs, some_of
from pnfs.inference.predictor import load_predictor, runtime_of
from pnfs.inference.results import RESULT_FILE, TABLE_FILE, ResultFolder
from pnfs.inference.tracking import Poses, Tracker
from pnfs.training.checkpoints import CARD_KEY, read_checkpoint
from pnfs.training.module import keep_freed_memory

_OF_THE_PREDICTOR = (
    "device", "runtime", "precision", "padding", "decode_method", "flip_shift", "batch_size", "trust",
)  # fmt: skip


def run(settings: dict[str, Any]) -> None:
    """Writes overlays and keypoints of all inputs; inputs that cannot be used are left out and named."""
    keep_freed_memory()
    out = _folder(settings)
    files, others = find_inputs(settings["input"], out)
    overlays = (out / "overlays").resolve()
    if settings["overlays"] and (inside := [file for file in files if file.path.is_relative_to(overlays)]):
        raise UsageError(f"{inside[0].path}: lies where overlays are written; name another out, or overlays=false")
    if others:
        console.print(f"skipped, no known picture or video: {some_of([path.name for path in others])}")
    boxes = choose_boxes(settings)
    if isinstance(boxes, CocoBoxes) and boxes.left_out:
        console.print(f"boxes left out: {listed(boxes.left_out)}")
    asked = {k: settings[k] for k in _OF_THE_PREDICTOR}
    if settings["boxes"] == "detector" and str(settings["checkpoint"]).endswith(".onnx"):
        asked["device"] = "auto"  # The detector alone has one.
    predictor = load_predictor(settings["checkpoint"], build=build_network, **asked)
    if settings["checkpoint"] == "shipped":
        console.print(f"model: {read_checkpoint('shipped', builds=())[CARD_KEY]}")
    smoothing = dict(settings["smoothing"])
    smoothing = smoothing if smoothing.pop("enabled") else None
    poses = Poses(
        predictor,
        tracker=partial(Tracker, **settings["tracking"], smoothing=smoothing),
        **{key: settings[key] for key in ("nms_threshold", "second_look", "flip_test")},
    )
    info: dict[str, Any] = dict(computed := runtime_of(predictor)) | {"upright": boxes.upright}
    if any(file.is_video for file in files):
        info |= {"tracking": settings["tracking"], "smoothing": smoothing}
    kinds = {key: settings[key] for key in ("score_threshold", "overlays")}
    results = ResultFolder(out, skeleton=predictor.skeleton, info=info, **kinds)
    problems = _predict_all(files, boxes, poses, results)
    console.print(f"poses: {len(results.persons)}; pictures or frames: {len(results.images)}")
    if poses.followed:
        console.print(f"persons followed through videos: {poses.followed}")
    console.print(described(computed))
    if poses.duplicates:
        limit = f"nms_threshold={settings['nms_threshold']}"
        console.print(f"{poses.duplicates} more were left out, too similar to a better pose ({limit})")
    if isinstance(boxes, WholeImage):
        warning = "warning: one person was taken to fill each picture; boxes=detector finds the persons"
        console.print(warning, style="yellow")
    if settings["overlays"]:
        console.print(f"overlays: {out / 'overlays'}")
    console.print(f"keypoints: {out / RESULT_FILE}, as a table {TABLE_FILE}")
    if problems:
        failed = f"{len(problems)} of {len(files)} inputs could not be used in full; all else is in {out}:"
        raise UsageError("\n  ".join([failed, *problems]))


def _predict_all(files: Sequence[InputFile], boxes: BoxSource, poses: Poses, results: ResultFolder) -> list[str]:
    """Writes all results; returns what went wrong."""
    problems: list[str] = []
    with Progress(console=console, disable=not console.is_terminal) as progress, results:
        task = progress.add_task("predicting", total=sum(map(_frames_in, files)))

        def report(error: DataError) -> None:
            problems.append(str(error))
            console.print(f"left out: {error}", style="yellow")
            progress.advance(task)

        for frame, prediction in poses.of(read_frames(files, boxes, report)):
            results.add(frame, prediction)
            progress.advance(task)
    for name, lost in poses.unusable.items():
        problems.append(f"{name}: poses left out, whose numbers are not finite: {lost}; try another checkpoint")
    return problems


def _frames_in(file: InputFile) -> int:
    """How many there are about; a file that cannot be read is reported when its turn comes."""
    with suppress(DataError):
        return Video(file.path).stated_frames if file.is_video else 1
    return 1


def choose_boxes(settings: Mapping[str, Any]) -> BoxSource:
    """Where the persons are, as the command line says."""
    if settings["boxes"] == "image":
        return WholeImage()
    threshold, detector = settings["box_threshold"], dict(settings["detector"])
    if settings["boxes"] != "detector":
        return CocoBoxes(settings["boxes"], threshold=threshold)
    asked_for = detector.pop("download")

    def download(what: str) -> bool:
        if asked_for or not (console.is_terminal and sys.stdin.isatty()):
            return asked_for
        return Confirm.ask(escape(f"Download {what}?"), console=console, default=False)

    device = choose_device(settings["device"])
    return PersonDetector(**detector, download=download, threshold=threshold, device=device)


def _folder(settings: Mapping[str, Any]) -> Path:
    asked = settings["input"] if isinstance(settings["input"], list) else [settings["input"]]
    if not asked:
        raise UsageError("input is an empty list; name a picture, a video, a folder or a glob")
    paths = [Path(str(item)).expanduser().absolute() for item in [*asked, settings["checkpoint"]]]
    parent = Path(settings["run_root"]) / "predict"
    # Other choices give other joints, in a folder of their own.
    choices = {key: settings[key] for key in settings.keys() - {"input", "checkpoint", "run_root", "out", "trust"}}
    return result_folder(settings["out"], parent, paths[0].stem or "input", [list(map(str, paths)), choices])

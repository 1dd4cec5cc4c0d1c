"""`pnfs predict`: poses in pictures and videos."""

from collections.abc import Mapping
from itertools import tee
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from pnfs.commands.configuration import UsageError, build_network, plain
from pnfs.commands.report import result_folder
from pnfs.commands.scoring import described
from pnfs.data.images import DataError
from pnfs.data.persons import listed
from pnfs.inference import choose_device
from pnfs.inference.boxes import BoxSource, CocoBoxes, PersonDetector, WholeImage
from pnfs.inference.frames import count_frames, read_frames
from pnfs.inference.inputs import counted_by_suffix, find_inputs
from pnfs.inference.loading import load_predictor, runtime_of
from pnfs.inference.results import RESULT_FILE, ResultFolder
from pnfs.training.checkpoints import CARD_KEY, read_checkpoint

console = Console()

_OF_THE_PREDICTOR = (
    "device", "runtime", "precision", "padding", "decode_method", "flip_shift", "batch_size", "trust",
)  # fmt: skip


def run(config: DictConfig) -> None:
    """Writes overlays and keypoints of all inputs; inputs that cannot be used are left out and named."""
    settings = plain(config)
    out, threshold = _folder(settings), settings["nms_threshold"]
    files, others = find_inputs(settings["input"], out)
    if others:
        _say(f"passed over, no known picture or video: {counted_by_suffix(others)}")
    boxes = choose_boxes(settings)
    if isinstance(boxes, CocoBoxes) and boxes.left_out:
        _say(f"boxes left out: {listed(boxes.left_out)}")
    predictor = load_predictor(
        settings["checkpoint"], build=build_network, **{k: settings[k] for k in _OF_THE_PREDICTOR}
    )
    if settings["checkpoint"] == "shipped":
        _say(f"model: {read_checkpoint('shipped', builds=())[CARD_KEY]}")
    if isinstance(boxes, WholeImage):
        _say(
            "one person is expected to fill each picture; boxes=detector finds persons in larger scenes"
        )
    problems: list[str] = []
    pictures = persons = duplicates = 0
    computed = runtime_of(predictor)
    kinds = {key: settings[key] for key in ("score_threshold", "overlays", "score_maps")}
    results = ResultFolder(out, skeleton=predictor.skeleton, computed=computed, **kinds)
    with Progress(console=console, disable=not console.is_terminal) as progress, results:
        task = progress.add_task("predicting", total=count_frames(files))

        def report(error: DataError) -> None:
            problems.append(str(error))
            console.print(f"[yellow]left out:[/] {escape(str(error))}", soft_wrap=True)
            progress.advance(task)

        frames, ahead = tee(read_frames(files, boxes, report))
        predicted = predictor.predict_each(
            (frame.query for frame in ahead),
            flip_test=settings["flip_test"],
            maps=settings["score_maps"],
        )
        for frame, found in zip(frames, predicted, strict=True):
            prediction = found if threshold is None else found.without_duplicates(threshold)
            results.add(frame, prediction)
            pictures, persons = pictures + 1, persons + len(prediction)
            duplicates += len(found) - len(prediction)
            progress.advance(task)
    _say(f"{persons} persons in {pictures} pictures or frames")
    _say(described(computed))
    if duplicates:
        _say(
            f"{duplicates} more were left out, too similar to a better pose (nms_threshold={threshold})"
        )
    for what in ("overlays", "score_maps"):
        if settings[what]:
            _say(f"{what.replace('_', ' ')}: {out / what}")
    _say(f"keypoints: {out / RESULT_FILE}")
    if problems:
        raise UsageError(
            f"{len(problems)} of {len(files)} inputs could not be used; the others' results are in "
            f"{out}:\n" + "\n".join(f"  {problem}" for problem in problems)
        )


def choose_boxes(settings: Mapping[str, Any]) -> BoxSource:
    """Where the persons are, as the command line says."""
    threshold, detector = settings["box_threshold"], settings["detector"]
    if settings["boxes"] == "image":
        return WholeImage()
    if settings["boxes"] == "detector":
        weights, device = detector["weights"], choose_device(settings["device"])
        return PersonDetector(detector["name"], weights=weights, threshold=threshold, device=device)
    return CocoBoxes(settings["boxes"], threshold=threshold, names=settings["box_names"])


def _say(text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _folder(settings: Mapping[str, Any]) -> Path:
    asked = settings["input"] if isinstance(settings["input"], list) else [settings["input"]]
    if not asked:
        raise UsageError("input is an empty list; name a picture, a video, a folder or a glob")
    paths = [Path(str(item)).expanduser().absolute() for item in [*asked, settings["checkpoint"]]]
    # A glob's name may not be a file's.
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in paths[0].stem) or "input"
    parent = Path(settings["run_root"]) / "predict"
    return result_folder(settings["out"], parent, name, list(map(str, paths)))

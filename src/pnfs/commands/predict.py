"""`pnfs predict`: poses in pictures and videos."""

import hashlib
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pnfs.commands.configuration import UsageError, build_network, plain
from pnfs.commands.score_tables import described
from pnfs.data.persons import DataError, listed
from pnfs.inference import Predictor, choose_device
from pnfs.inference.boxes import BoxSource, CocoBoxes, PersonDetector, WholeImage
from pnfs.inference.frames import count_frames, predict_frames, read_frames
from pnfs.inference.inputs import InputFile, counted_by_suffix, find_inputs, passed_over
from pnfs.inference.loading import load_predictor, runtime_of
from pnfs.inference.results import RESULT_FILE, ResultFolder

console = Console()


def run(config: DictConfig) -> None:
    settings = plain(config)
    threshold = settings["nms_threshold"]
    if threshold is not None and not (isinstance(threshold, (int, float)) and 0 <= threshold <= 1):
        raise UsageError(f"nms_threshold is an OKS, from 0 to 1, or null; not {threshold}")
    out = _folder(settings)
    files = find_inputs(settings["input"], out)
    others = passed_over(settings["input"], out)
    if others:
        console.print(
            f"passed over, no known picture or video: {counted_by_suffix(others)}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    boxes = choose_boxes(settings)
    if isinstance(boxes, CocoBoxes) and boxes.left_out:
        console.print(f"boxes left out: {listed(boxes.left_out)}", highlight=False)
    predictor = load_predictor(
        settings["checkpoint"],
        settings["device"],
        build=build_network,
        runtime=settings["runtime"],
        precision=settings["precision"],
        padding=settings["padding"],
        decode_method=settings["decode_method"],
        flip_shift=settings["flip_shift"],
        batch_size=settings["batch_size"],
        trust=settings["trust"],
    )
    try:
        problems = _predict(settings, predictor, files, boxes, out)
    except OSError as error:
        raise UsageError(f"the results cannot be written: {error}") from error
    if problems:
        raise UsageError(
            f"{len(problems)} of {len(files)} inputs could not be used; the others' results are in "
            f"{out}:\n" + "\n".join(f"  {problem}" for problem in problems)
        )


def choose_boxes(settings: dict[str, Any]) -> BoxSource:
    """Where the persons are, as the command line says.

    Raises:
        DataError: A file is missing or damaged.
    """
    if settings["boxes"] == "image":
        return WholeImage()
    if settings["boxes"] == "detector":
        return PersonDetector(
            settings["detector"]["name"],
            weights=settings["detector"]["weights"],
            threshold=settings["box_threshold"],
            device=choose_device(settings["device"]),
        )
    return CocoBoxes(
        settings["boxes"], threshold=settings["box_threshold"], names=settings["box_names"]
    )


def _predict(
    settings: dict[str, Any],
    predictor: Predictor,
    files: list[InputFile],
    boxes: BoxSource,
    out: Path,
) -> list[str]:
    """Writes all results; returns what could not be used."""
    problems: list[str] = []
    pictures = persons = duplicates = 0
    threshold = settings["nms_threshold"]
    computed = runtime_of(predictor)
    results = ResultFolder(
        out,
        skeleton=predictor.skeleton,
        computed=computed,
        score_threshold=settings["score_threshold"],
        overlays=settings["overlays"],
        score_maps=settings["score_maps"],
    )
    with _progress() as progress, results:
        task = progress.add_task("predicting", total=count_frames(files))

        def report(error: DataError) -> None:
            problems.append(str(error))
            progress.console.print(f"[yellow]left out:[/] {escape(str(error))}", soft_wrap=True)
            progress.advance(task)

        frames = read_frames(files, boxes, report)
        predicted = predict_frames(
            predictor, frames, flip_test=settings["flip_test"], maps=settings["score_maps"]
        )
        for frame, found in predicted:
            prediction = found if threshold is None else found.without_duplicates(threshold)
            duplicates += len(found) - len(prediction)
            results.add(frame, prediction)
            pictures, persons = pictures + 1, persons + len(prediction)
            progress.advance(task)
    console.print(f"{persons} persons in {pictures} pictures or frames", highlight=False)
    console.print(described(computed), style="dim", highlight=False)
    if duplicates:
        console.print(
            f"{duplicates} more were left out, too similar to a better pose (nms_threshold={threshold})",
            highlight=False,
        )
    if settings["overlays"]:
        console.print(f"overlays: {out / 'overlays'}", soft_wrap=True)
    if settings["score_maps"]:
        console.print(f"score maps: {out / 'score_maps'}", soft_wrap=True)
    console.print(f"keypoints: {out / RESULT_FILE}", soft_wrap=True)
    return problems


def _folder(settings: dict[str, Any]) -> Path:
    if settings["out"]:
        return Path(settings["out"]).expanduser()
    asked = settings["input"] if isinstance(settings["input"], list) else [settings["input"]]
    if not asked:
        raise UsageError("input is an empty list; name a picture, a video, a folder or a glob")
    paths = [str(Path(item).expanduser().absolute()) for item in [*asked, settings["checkpoint"]]]
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:8]
    # A glob's name may not be a file's.
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(asked[0]).stem) or "input"
    return Path(settings["run_root"]) / "predict" / f"{name}-{digest}"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )

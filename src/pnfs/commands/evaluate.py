"""`pnfs evaluate`: score a trained network, or a file of predictions."""

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from hydra.utils import get_class
from omegaconf import DictConfig
from rich.console import Console

from pnfs.codec.decode import DecodeMethod
from pnfs.commands import evaluate_file
from pnfs.commands.building import build_module, data_of_run
from pnfs.commands.configuration import UsageError, build_network, build_source, plain
from pnfs.commands.report import report
from pnfs.commands.scoring import (
    evaluation_choices,
    matches_of,
    require_whole_split,
    score_and_predict,
    warn_of_last,
    write_pictures,
    write_predictions,
)
from pnfs.data.module import PoseDataModule, Source
from pnfs.data.predictions import Benchmark, Predictions
from pnfs.inference.loading import chosen_runtime, load_predictor, runtime_of
from pnfs.inference.scored import ScoredPredictor
from pnfs.runs.record import provenance
from pnfs.runs.state import LAST_CHECKPOINT
from pnfs.training.checkpoints import (
    CONFIG_KEY,
    find_checkpoint,
    read_checkpoint,
    without_downloads,
)
from pnfs.training.module import PoseModule

console = Console()


def run(config: DictConfig) -> float:
    """Scores one checkpoint, or one file of predictions; nan for a split without labels."""
    settings = plain(config)
    check_settings(settings)
    if settings["predictions"] is not None:
        return evaluate_file.run(settings)
    path = find_checkpoint(settings["checkpoint"])
    found = exported_file(settings, path) if path.suffix == ".onnx" else checkpoint(settings, path)
    source, split, data = found.data.source, settings["split"], found.data
    console.print(f"{found.kind}: {path}", soft_wrap=True)
    console.print(source.persons(split).described(), soft_wrap=True, highlight=False)
    # A file that was named is what was asked for; of a folder the best is expected.
    fell_back = path.name == LAST_CHECKPOINT.name and Path(settings["checkpoint"]).name != path.name
    if fell_back:
        warn_of_last(path)
    scores, predictions = score_and_predict(found.module, data, found.trainer, split)
    if isinstance(source, Benchmark):
        scores |= source.extra_scores(split, predictions)
    choices = evaluation_choices(found.module, source, split)
    choices |= {"input_size": list(data.input_size), **found.computed}
    if fell_back:
        choices["weights"] = "last"
    defining = {"choices": choices, "dataset": found.dataset}
    folder = result_folder(settings["out"], found.run, split, defining)
    record = {
        "checkpoint": str(path),
        "score": next(iter(scores.values())),
        "scores": scores,
        "evaluated_with": choices,
        "persons": len(predictions),
        "data": {split: source.persons(split).account()},
        **provenance(found.trainer["accelerator"]),
        "dataset": found.dataset,
    }
    matches = matches_of(source, split, predictions)
    draw = partial(write_pictures, found.module, data, folder, split, predictions)
    report(record, folder, data, matches, settings, draw)
    written = write_named_predictions(settings["eval"]["name"], source, split, predictions, folder)
    console.print(f"predicted joints: {written}", soft_wrap=True)
    return float(record["score"])


@dataclass(frozen=True)
class Scored:
    """A trained network and its data, ready to be scored.

    Attributes:
        kind: What the file is.
        run: The run's folder, or that of an exported file.
        module: What predicts.
        data: Crops as the network was trained on.
        dataset: Configuration of the dataset.
        trainer: Configuration of the trainer, which says where is computed.
        computed: Runtime and precision.
    """

    kind: str
    run: Path
    module: PoseModule | ScoredPredictor
    data: PoseDataModule
    dataset: dict[str, Any]
    trainer: dict[str, Any]
    computed: dict[str, str]


def checkpoint(settings: Mapping[str, Any], path: Path) -> Scored:
    """A checkpoint with the evaluation's choices."""
    chosen_runtime(path, settings["runtime"], settings["precision"])
    content = read_checkpoint(path, trust=settings["trust"])
    trained = without_downloads(content[CONFIG_KEY])
    dataset = with_choices(
        chosen_dataset(settings["dataset"], trained["dataset"]), settings["eval"]
    )
    source = build_source(dataset, trained["input_size"])
    require_skeleton(path, trained["model"]["skeleton"], source)
    return Scored(
        kind="checkpoint",
        run=path.parent.parent,
        module=load_module(settings, trained, content, source),
        data=_data(settings, trained, source),
        dataset=dataset,
        trainer=settings["trainer"],
        computed={"runtime": "torch", "precision": _named(settings["trainer"].get("precision"))},
    )


def exported_file(settings: Mapping[str, Any], path: Path) -> Scored:
    """An exported file; its dataset is named, or that of the run in whose folder it lies.

    Raises:
        UsageError: No dataset is named, and the file lies in no run's folder.
    """
    predictor = load_predictor(
        path,
        build=build_network,
        runtime=settings["runtime"],
        precision=settings["precision"],
        decode_method=settings["decode_method"],
        flip_shift=settings["flip_shift"],
        batch_size=settings["eval_batch_size"],
    )
    trained: dict[str, Any] = {}
    if (path.parent / "checkpoints").is_dir():
        content = read_checkpoint(path.parent, builds=("dataset",), trust=settings["trust"])
        trained = content[CONFIG_KEY]
    elif "_target_" not in settings["dataset"]:
        raise UsageError(
            f"{path} lies in no run's folder, whose dataset could be taken: add dataset=… dataset.root=…"
        )
    dataset = with_choices(
        chosen_dataset(settings["dataset"], trained.get("dataset", {})), settings["eval"]
    )
    source = build_source(dataset, predictor.input_size)
    require_skeleton(path, predictor.skeleton.name, source)
    as_trained = {
        "input_size": predictor.input_size,
        "codec": {"unbiased": predictor.codec.unbiased},
        "data": trained.get("data", {}),
    }
    return Scored(
        kind="exported file",
        run=path.parent,
        module=ScoredPredictor(predictor, source.metric(settings["split"]), settings["flip_test"]),
        data=_data(settings, as_trained, source),
        dataset=dataset,
        # Exported files run in this process; what the trainer says of devices is for PyTorch.
        trainer={
            "_target_": settings["trainer"]["_target_"], "accelerator": "cpu", "devices": 1,
        },
        computed=runtime_of(predictor),
    )  # fmt: skip


def require_skeleton(path: Path, skeleton: str, source: Source) -> None:
    """Refuses a dataset of other joints.

    Raises:
        UsageError: Names both skeletons.
    """
    if source.skeleton.name != skeleton:
        raise UsageError(
            f"{path} predicts the joints of skeleton {skeleton}, "
            f"the dataset has those of {source.skeleton.name}"
        )


def _data(
    settings: Mapping[str, Any], trained: Mapping[str, Any], source: Source
) -> PoseDataModule:
    return data_of_run(
        trained, source, batch_size=settings["eval_batch_size"], workers=settings["workers"]
    )


def _named(precision: Any) -> str:
    """The trainer's precision in the words of the other runtimes, where they have one."""
    return "f32" if precision in (None, 32, "32", "32-true") else str(precision)


def write_named_predictions(
    name: str | None, source: Source, split: str, predictions: Predictions, folder: Path
) -> Path:
    """Writes the predictions; without a name for them, under that of the run's folder."""
    chosen = re.sub(r"[^A-Za-z0-9._-]", "-", folder.parent.name) or "pnfs"
    return write_predictions(source, split, predictions, folder, chosen if name is None else name)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses a part of a split, and what no decoder and no flip test knows, before anything is loaded.

    Raises:
        UsageError: Names the key and its choices, or keys that do not go together.
    """
    require_whole_split(settings["trainer"])
    if (settings["checkpoint"] is None) == (settings["predictions"] is None):
        given = "neither is given" if settings["checkpoint"] is None else "both are given"
        raise UsageError(
            f"evaluate scores either a network, checkpoint=…, or a file, predictions=…: {given}"
        )
    allowed = {"decode_method": get_args(DecodeMethod), "flip_shift": (0, 1)}
    for key, choices in allowed.items():
        if settings[key] is not None and settings[key] not in choices:
            raise UsageError(
                f"{key} must be one of {', '.join(map(str, choices))}, not {settings[key]!r}"
            )


def load_module(
    settings: Mapping[str, Any],
    trained: dict[str, Any],
    checkpoint: Mapping[str, Any],
    source: Source,
) -> PoseModule:
    """The trained network with the evaluation's choices."""
    module = build_module(trained, source)
    module.load_weights(checkpoint["state_dict"])
    module.flip_test = settings["flip_test"]
    asked = {name: settings[name] for name in ("flip_shift", "decode_method")}
    module.codec = replace(module.codec, **{k: v for k, v in asked.items() if v is not None})
    return module


def chosen_dataset(asked: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """The dataset of the command line; without one, the checkpoint's with the keys given."""
    if "_target_" in asked:
        return asked
    return trained | {key: value for key, value in asked.items() if value is not None}


def with_choices(dataset: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset with the choices of `eval` that are given.

    Raises:
        UsageError: The dataset does not offer such a choice.
    """
    chosen = {k: v for k, v in asked.items() if k != "name" and v is not None}
    called = get_class(dataset["_target_"])
    offered = inspect.signature(called).parameters
    for key in chosen:
        if key not in offered:
            raise UsageError(
                f"eval.{key}={chosen[key]}: {called.__name__} offers no such choice; it is for "
                "datasets with detected boxes, such as COCO"
            )
    return dataset | chosen


def result_folder(out: str | None, run: Path, split: str, defining: Any) -> Path:
    """`out`, or a folder of its own in the run's for each way to evaluate."""
    if out is not None:
        return Path(out).expanduser()
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:8]
    return run / f"evaluate_{split}_{digest}"

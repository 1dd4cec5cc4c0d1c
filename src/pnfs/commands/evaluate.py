"""`pnfs evaluate`: score a trained network, or a file of predictions."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig
from rich.console import Console

from pnfs.body import skeleton_by_name
from pnfs.commands import evaluate_file
from pnfs.commands.building import build_module, data_of_run
from pnfs.commands.configuration import UsageError, build_network, build_source, plain
from pnfs.commands.every_split import with_every_split
from pnfs.commands.report import report, result_folder
from pnfs.commands.scoring import (
    evaluation_choices,
    require_whole_split,
    score_and_predict,
)
from pnfs.data.module import PoseDataModule
from pnfs.inference.loading import chosen_runtime, load_predictor, runtime_of
from pnfs.inference.predictor import ScoredPredictor
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
    """Scores one checkpoint, exported file, or file of predictions; nan for a split without labels."""
    settings = plain(config)
    check_settings(settings)
    if settings["predictions"] is not None:
        return evaluate_file.run(settings)
    path, split = find_checkpoint(settings["checkpoint"]), settings["split"]
    found = (exported_file if path.suffix == ".onnx" else checkpoint)(settings, path)
    source = found.data.source
    console.print(f"scored: {path}", soft_wrap=True)
    console.print(source.persons(split).described(), soft_wrap=True, highlight=False)
    scores, predictions = score_and_predict(found.module, found.data, found.trainer, split)
    scores |= source.extra_scores(split, predictions)
    choices = evaluation_choices(found.module, source, split)
    choices |= {"input_size": list(found.data.input_size), **found.computed}
    if path.name == LAST_CHECKPOINT.name:
        choices["weights"] = "last"
    record = {
        "checkpoint": str(path),
        "kind": "evaluate",
        "primary": next(iter(scores)),
        "score": next(iter(scores.values())),
        "scores": scores,
        "evaluated_with": choices,
        "persons": len(predictions),
        "data": {split: source.persons(split).account()},
        **provenance(found.trainer["accelerator"]),
        "dataset": found.dataset,
    }
    folder = result_folder(
        settings["out"], found.run, f"evaluate_{split}", [choices, found.dataset]
    )
    matches = source.matches(split, predictions)
    report(record, folder, found.data, matches, settings, found.module)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", folder.parent.name) or "pnfs"
    name = name if settings["eval"]["name"] is None else settings["eval"]["name"]
    written = source.write_predictions(split, predictions, folder, name)
    console.print(f"predicted joints: {written}", soft_wrap=True)
    return float(record["score"])


@dataclass(frozen=True)
class Scored:
    """A trained network and its data, ready to be scored.

    Attributes:
        run: The run's folder, or that of an exported file.
        module: What predicts.
        data: Crops as the network was trained on.
        dataset: Configuration of the dataset.
        trainer: Configuration of the trainer, which says where is computed.
        computed: Runtime and precision.
    """

    run: Path
    module: PoseModule | ScoredPredictor
    data: PoseDataModule
    dataset: dict[str, Any]
    trainer: dict[str, Any]
    computed: dict[str, str] = field(default_factory=dict)


def checkpoint(settings: Mapping[str, Any], path: Path) -> Scored:
    """A checkpoint with the evaluation's choices."""
    chosen_runtime(path, settings["runtime"], settings["precision"])
    content = read_checkpoint(path, trust=settings["trust"])
    trained = without_downloads(content[CONFIG_KEY])
    dataset, data = _data(
        settings, trained, skeleton_by_name(trained["model"]["skeleton"]).name, path
    )
    module = build_module(trained, data.source)
    module.load_weights(content["state_dict"])
    module.flip_test = settings["flip_test"]
    asked = {key: settings[key] for key in ("flip_shift", "decode_method")}
    asked = {key: value for key, value in asked.items() if value is not None}
    module.codec = replace(module.codec, **asked)
    precision = settings["trainer"].get("precision")
    # In the words of the other runtimes, where they have one.
    precision = "f32" if precision in (None, 32, "32", "32-true") else str(precision)
    computed = {"runtime": "torch", "precision": precision}
    return Scored(path.parent.parent, module, data, dataset, settings["trainer"], computed)


def exported_file(settings: Mapping[str, Any], path: Path) -> Scored:
    """An exported file; its dataset is named, or that of the run in whose folder it lies.

    Raises:
        UsageError: No dataset is named, and the file lies in no run's folder.
    """
    predictor = load_predictor(
        path,
        build=build_network,
        batch_size=settings["eval_batch_size"],
        **{key: settings[key] for key in ("runtime", "precision", "decode_method", "flip_shift")},
    )
    trained: dict[str, Any] = {}
    if (path.parent / "checkpoints").is_dir():
        content = read_checkpoint(path.parent, builds=("dataset",), trust=settings["trust"])
        trained = content[CONFIG_KEY]
    elif "_target_" not in settings["dataset"]:
        raise UsageError(
            f"{path} lies in no run's folder, whose dataset could be taken: add dataset=… dataset.root=…"
        )
    as_trained = {
        "dataset": trained.get("dataset", {}),
        "input_size": predictor.input_size,
        "codec": {"unbiased": predictor.codec.unbiased},
        "data": trained.get("data", {}),
    }
    dataset, data = _data(settings, as_trained, predictor.skeleton.name, path)
    metric = data.source.metric(settings["split"])
    module = ScoredPredictor(predictor, metric, settings["flip_test"])
    # Exported files run in this process; what the trainer says of devices is for PyTorch.
    target = settings["trainer"]["_target_"]
    trainer = {"_target_": target, "accelerator": "cpu", "devices": 1}
    return Scored(path.parent, module, data, dataset, trainer, runtime_of(predictor))


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises UsageError for a part of a split, and for keys that do not go together."""
    require_whole_split(settings["trainer"])
    if (settings["checkpoint"] is None) == (settings["predictions"] is None):
        given = "neither is given" if settings["checkpoint"] is None else "both are given"
        raise UsageError(
            f"evaluate scores either a network, checkpoint=…, or a file, predictions=…: {given}"
        )


def _data(
    settings: Mapping[str, Any], trained: Mapping[str, Any], skeleton: str, path: Path
) -> tuple[dict[str, Any], PoseDataModule]:
    """The dataset's configuration, and the crops in it as a network was trained on.

    Raises:
        UsageError: The dataset has other joints, or does not offer a choice of `eval`.
    """
    dataset = chosen_dataset(settings["dataset"], trained["dataset"])
    chosen = {k: v for k, v in settings["eval"].items() if k != "name" and v is not None}
    called = get_class(dataset["_target_"])
    offered = inspect.signature(called).parameters
    for key in chosen:
        if key not in offered:
            raise UsageError(
                f"eval.{key}={chosen[key]}: {called.__name__} offers no such choice; it is for "
                "datasets with detected boxes, such as COCO"
            )
    dataset |= chosen
    source = with_every_split(build_source(dataset, trained["input_size"]), settings["split"])
    require_skeleton(path, skeleton, source.skeleton.name)
    batch_size, workers = settings["eval_batch_size"], settings["workers"]
    return dataset, data_of_run(trained, source, batch_size=batch_size, workers=workers)


def require_skeleton(path: Path, skeleton: str, dataset: str) -> None:
    """Refuses a dataset of other joints.

    Raises:
        UsageError: Names both skeletons.
    """
    if skeleton != dataset:
        raise UsageError(
            f"{path} predicts the joints of skeleton {skeleton}, the dataset has those of {dataset}"
        )


def chosen_dataset(asked: dict[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset of the command line; without one, the checkpoint's with the keys given."""
    if "_target_" in asked:
        return dict(asked)
    return {**trained, **{key: value for key, value in asked.items() if value is not None}}

"""`pnfs evaluate`: score a trained network."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from pnfs.commands.configuration import UsageError, build_source, plain, without_downloads
from pnfs.commands.scoring import score, write_pictures
from pnfs.commands.tables import score_table
from pnfs.commands.train import build_module
from pnfs.data.module import PoseDataModule
from pnfs.training.checkpoints import CONFIG_KEY, find_checkpoint, read_checkpoint
from pnfs.training.records import provenance, write_result

console = Console()


def run(config: DictConfig) -> float:
    settings = plain(config)
    path = find_checkpoint(settings["checkpoint"])
    checkpoint = read_checkpoint(path)
    trained = without_downloads(checkpoint[CONFIG_KEY])
    dataset = chosen_dataset(settings["dataset"], trained["dataset"])
    source = build_source(dataset)
    if source.skeleton.name != trained["model"]["skeleton"]:
        raise UsageError(
            f"{path} predicts the joints of skeleton {trained['model']['skeleton']}, "
            f"the dataset has those of {source.skeleton.name}"
        )
    module = build_module(trained, source)
    module.load_weights(checkpoint["state_dict"])
    module.flip_test = settings["flip_test"]
    for name in ("flip_shift", "decode_method"):
        if settings[name] is not None:
            setattr(module, name, settings[name])
    data = PoseDataModule(
        source=source,
        input_size=tuple(trained["input_size"]),
        batch_size=settings["eval_batch_size"],
        workers=settings["workers"],
    )
    split = settings["split"]
    scores = score(module, data, settings["trainer"], split)
    folder = Path(settings["out"]) if settings["out"] else path.parent.parent / f"evaluate_{split}"
    record = {
        "checkpoint": str(path),
        "score": next(iter(scores.values())),
        "scores": scores,
        "evaluated_with": {
            "split": split,
            "flip_test": module.flip_test,
            "flip_shift": module.flip_shift,
            "decode_method": module.decode_method,
        },
        **provenance(),
        "dataset": dataset,
    }
    write_result(folder, record)
    pictures = write_pictures(module, data, folder, split)
    console.print(f"checkpoint: {path}", soft_wrap=True)
    flip = "flip test" if module.flip_test else "no flip test"
    console.print(score_table(f"{source.persons(split).name}, {flip}", {"score": scores}))
    for what, picture in pictures.items():
        console.print(f"{what}: {picture}", soft_wrap=True)
    console.print(f"record: {folder / 'result.json'}", soft_wrap=True)
    return float(record["score"])


def chosen_dataset(asked: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """The dataset of the command line; without one, the checkpoint's with the keys given."""
    if "_target_" in asked:
        return asked
    return trained | {key: value for key, value in asked.items() if value is not None}

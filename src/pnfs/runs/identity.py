"""What makes a run the run it is: its configuration, the persons it reads, the weights it starts from."""

import copy
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import from_json, to_json

from pnfs.errors import PnfsError
from pnfs.files import checkpoint_at

if TYPE_CHECKING:
    # For the annotations alone: `pnfs runs` is not to wait for torch.
    from pnfs.data.datasets.base import PoseDataset
    from pnfs.data.persons import Persons

PERSONS = "persons"
"""Entry of an identity: split -> digest of what is read of it."""

# Keys that do not change which run it is: paths, names, logging, device and speed.
_NOT_DEFINING = (
    "run_root", "data_root", "name", "run_name", "run_dir", "tags", "logger", "restart", "trust",
    "evaluate_untrained",
    "dataset.check_images", "data.workers", "data.eval_batch_size", "data.resident", "optimizer.fused",
    "callbacks.architecture", "callbacks.speed", "callbacks.learning_rate", "callbacks.epochs",
    "callbacks.progress", "callbacks.pictures",
)  # fmt: skip

# Keys that others are made of; the identity holds those others: model, data, trainer, loss, strategy.
_INGREDIENTS = (
    "skeleton", "parts", "backbone", "pretrained", "operations", "variant", "acceleration", "architecture",
    "epochs", "input_size", "batch_size", "eval_batch_size", "workers", "callbacks.strategy",
)  # fmt: skip

# Keys of the trainer that change no number, or only its last digits as another device does; any other key
# makes another run. `max_time` only pauses a run: resumed, it ends like the one that nothing stopped.
_TRAINER_NOT_DEFINING = (
    "accelerator", "default_root_dir", "logger", "max_time", "num_sanity_val_steps", "log_every_n_steps",
    "enable_progress_bar", "enable_model_summary", "profiler", "detect_anomaly", "benchmark",
    "deterministic", "inference_mode", "limit_test_batches", "limit_predict_batches",
    "enable_autolog_hparams", "model_registry",
)  # fmt: skip

# Naming a default of the trainer, or of conf/trainer, does not make another run.
_TRAINER_DEFAULTS: Mapping[str, Any] = {
    "_target_": "lightning.Trainer", "strategy": "auto", "devices": 1, "num_nodes": 1,
    "precision": "32-true", "accumulate_grad_batches": 1, "max_steps": -1, "fast_dev_run": False,
    "overfit_batches": 0.0, "limit_train_batches": 1.0, "limit_val_batches": 1.0,
    "check_val_every_n_epoch": 1, "val_check_interval": 1.0, "reload_dataloaders_every_n_epochs": 0,
    "sync_batchnorm": False, "use_distributed_sampler": False,
}  # fmt: skip

# Keys of files that count by their content, and weights that are no file, even if there is one of that name.
_FILES, _WORDS = ("weights", "architecture", "initial", "ckpt_path"), ("imagenet", "none")


class OtherRunError(PnfsError):
    """A file in a run's folder is of another run; the message says what differs."""


def read_digests(dataset: "PoseDataset") -> dict[str, str]:
    """Split -> digest of the persons and labels that a run reads, wherever they lie."""
    digests = {}
    for split in ("train", "val"):
        digests[split] = persons_digest(dataset.persons(split))
        if labels := dataset.labels_digest(split):
            digests[split] = hashlib.sha256((digests[split] + labels).encode()).hexdigest()
    return digests


def persons_digest(persons: "Persons") -> str:
    """A digest of who the persons are, in which images, with which boxes and joints; not of pixels."""
    names = [persons.images.describe(image) for image in np.unique(persons.image_index).tolist()]
    labelled = persons.visibility > 0
    columns = (
        np.unique(persons.image_index, return_inverse=True)[1].astype("<i8"),
        np.where(labelled[..., None], persons.joints, 0).astype("<f4"),
        persons.visibility.astype("<i1"),
        persons.center.astype("<f4"),
        persons.box_size.astype("<f4"),
        # One way to write nan, of which there are many.
        np.nan_to_num(persons.reference_length, nan=-1.0).astype("<f4"),
    )
    digest = hashlib.sha256()
    for texts in (persons.skeleton.joints, persons.ids.tolist(), names):
        digest.update(json.dumps(list(texts)).encode())
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def run_identity(config: Mapping[str, Any], persons: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Everything that makes a run what it is, as plain data.

    `config` is resolved; `persons` is what `read_digests` tells of the dataset, None where it is not at hand.
    """
    # As it comes back from a file: JSON has neither nan nor infinity.
    part = from_json(to_json(defining_part(config), inf_nan_mode="null"))
    if persons is None:
        return part
    for key, value in part.get("dataset", {}).items():
        if _is_place(key, value):
            part["dataset"][key] = None  # What was read there counts.
    return part | {PERSONS: dict(persons)}


def run_hash(config: Mapping[str, Any], persons: Mapping[str, str] | None = None) -> str:
    """Eight hexadecimal digits that stand for `run_identity`."""
    text = json.dumps(run_identity(config, persons), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def defining_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that makes a run what it is.

    Files of weights, `architecture`, `initial` and `ckpt_path` count by their content. A dataset counts by the
    last component of its path, until `run_identity` knows what is in it.
    """
    part = copy.deepcopy(dict(config))
    for key in (*_NOT_DEFINING, *_INGREDIENTS):
        *above, last = key.split(".")
        functools.reduce(lambda tree, step: tree.get(step) or {}, above, part).pop(last, None)
    for callback in part.get("callbacks", {}).values():
        (callback or {}).pop("dirpath", None)
    trainer = {
        k: v for k, v in part.get("trainer", {}).items() if k not in _TRAINER_NOT_DEFINING and v is not None
    }
    trainer["devices"] = devices_of(config.get("trainer", {}))
    if str(trainer.get("strategy", "")).startswith("ddp"):
        del trainer["strategy"]  # How several processes exchange gradients; `devices` says how many.
    # The types count: limit_train_batches=1 is one batch, 1.0 are all of them.
    part["trainer"] = {k: v for k, v in trainer.items() if repr(v) != repr(_TRAINER_DEFAULTS.get(k))}
    dataset = part.get("dataset", {})
    for key, value in dataset.items():
        if _is_place(key, value):
            dataset[key] = None if value is None else Path(str(value)).name
    if "cache" in part.get("data", {}):
        # JPEG crops differ a little, wherever they lie.
        part["data"]["cache"] = part["data"]["cache"] is not None
    return _by_content(part)


def devices_of(trainer: Mapping[str, Any]) -> Any:
    """`devices` of a trainer; where it asks for all, their number, with which the batch of a step changes."""
    if (devices := trainer.get("devices")) not in ("auto", "-1", -1):
        return 1 if devices is None else devices
    import torch  # Here and not above: `pnfs runs` is not to wait for it.

    return 1 if trainer.get("accelerator") == "cpu" else max(1, torch.cuda.device_count())


def _is_place(key: str, value: Any) -> bool:
    return key == "root" or (isinstance(value, str) and "/" in value)


def _by_content(tree: Any) -> Any:
    """A configuration with digests in place of the names of `_FILES`."""
    if not isinstance(tree, dict):
        return tree
    return {
        key: _content(key, value) if key in _FILES and isinstance(value, str) else _by_content(value)
        for key, value in tree.items()
    }


def _content(key: str, value: str) -> str:
    """Digest of a file; the name of what is no file."""
    # A training goes on from the last epoch; elsewhere the best one is meant.
    word = value in _WORDS or (key, value) == ("weights", "shipped")
    file = None if word else checkpoint_at(value, last_first=key == "ckpt_path")
    if file is None:
        return Path(value).expanduser().name
    stat = file.stat()
    return _file_digest(str(file), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=64)
def _file_digest(path: str, changed: int, size: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted key -> value, of dictionaries too."""
    found = {f"{above}{key}": value for key, value in tree.items()}
    for key, value in tree.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {}
    return found


def differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The dotted keys whose values are not the same."""
    one, other = ({k: v for k, v in flat(t).items() if not isinstance(v, dict)} for t in (theirs, ours))
    return [key for key in {**one, **other} if one.get(key, ...) != other.get(key, ...)]


def require_same(file: Path, theirs: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> None:
    """Raises OtherRunError, which names the keys that differ, for a record or checkpoint that has another identity
    (None: it was written without) than is asked for."""
    if theirs is not None and theirs != ours:
        raise OtherRunError(
            f"{file} is of another run; what differs: {', '.join(differing(theirs, ours))} (persons: images, "
            "boxes or joints of the dataset). Move that folder away, or train anew with restart=true"
        )

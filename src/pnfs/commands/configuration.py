"""The configuration: where it lies, what its interpolations ask for, and whether each key is read by somebody and
holds a value of the right kind."""

import functools
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from rich.console import Console

import pnfs
from pnfs.errors import PnfsError
from pnfs.runs.identity import flat, run_hash

console = Console(soft_wrap=True, highlight=False, markup=False)
"""Where commands print; paths are neither cut nor taken for styles."""


class UsageError(PnfsError):
    """What the user asked for cannot be done; the message names the key, why, and what to do."""


def packaged_folder(name: str) -> Path:
    """`conf` or `experiments`: inside an installed package, or at the top of the source tree."""
    package = Path(pnfs.__file__).parent
    for folder in (package / name, package.parents[1] / name):
        if folder.is_dir():
            return folder
    raise UsageError(f"no folder {name} beside {package}: reinstall pnfs")


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as a resolved plain dictionary, as checkpoints and records keep it."""
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


def register_resolvers() -> None:
    """Makes ${run_hash:}, ${absolute:…}, ${trained:…} known to this process."""
    absolute = {"absolute": lambda path: str(Path(path).absolute())}
    for name, resolver in {"run_hash": _run_hash, "trained": _trained, **absolute}.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _run_hash(*, _root_: DictConfig) -> str:
    """What stands for everything that changes a run's numbers; see `run_identity`."""
    tree = cast("dict", OmegaConf.to_container(_root_))
    # Hydra's part is no setting; the others are made of the hash themselves.
    tree = {k: v for k, v in tree.items() if k != "hydra"} | {"run_name": "", "run_dir": ""}
    return _hash_of(json.dumps(tree))


@functools.lru_cache(maxsize=1)
def _hash_of(tree: str) -> str:
    """A configuration asks for its hash in a dozen places."""
    # Imported when a run is named, not for --help.
    from pnfs.commands.building import persons_of

    try:
        settings = plain(cast("DictConfig", OmegaConf.create(json.loads(tree))))
    except (PnfsError, OmegaConfBaseException):
        return run_hash({"config": tree})  # The run says what is wrong; its folder must have a name before.
    return run_hash(settings, persons_of(settings))


def _trained(checkpoint: str | None, key: str, trust: bool) -> Any:
    """An entry of a checkpoint's configuration; its model asks for no downloads."""
    from pnfs.training.checkpoints import CONFIG_KEY, read_checkpoint, without_downloads

    if checkpoint is None:
        raise PnfsError("initial=null: name the checkpoint, or the run's folder, to start from")
    content = read_checkpoint(checkpoint, builds=("model",), trust=trust)
    # As OmegaConf's own nodes: --cfg job --resolve takes no dictionaries.
    return OmegaConf.create(without_downloads(content[CONFIG_KEY])[key])


# --- the keys of the command line and of recipes

_FREE = ("parts", "operations", "callbacks", "logger", "known")
"""Groups whose keys are names that a user may choose."""

_HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
_Share = Annotated[float, Field(ge=0, le=1)]
_Side = Annotated[int, Field(ge=32, multiple_of=32)]

_ABSENT = object()

_KINDS: Mapping[str, Any] = {
    "seed": Annotated[int, Field(ge=0, lt=2**32)], "epochs": PositiveInt, "batch_size": PositiveInt,
    "eval_batch_size": PositiveInt, "workers": NonNegativeInt,
    "input_size": Annotated[list[_Side], Field(min_length=2, max_length=2)],
    # Null in the commands that train nothing.
    # Lightning's "-true" half precisions would round labels and coordinates too.
    "trainer.precision": Literal["32-true", "64-true", "16-mixed", "bf16-mixed", "32", "64", 32, 64, None],
    "trainer.max_epochs": Annotated[int | None, Field(gt=0)],
    "optimizer.lr": PositiveFloat, "schedule.peak": PositiveFloat, "schedule.factor": PositiveFloat,
    "schedule.warmup": _Share, "schedule.milestones": list[Annotated[float, Field(gt=0, le=1)]],
    "strategy.lr": PositiveFloat, "strategy.lr_factor": NonNegativeFloat, "strategy.std": NonNegativeFloat,
    "strategy.weight_decay": NonNegativeFloat, "strategy.unrolled_lr": PositiveFloat, "loss.factor": PositiveFloat,
    "callbacks.early_stopping.patience": PositiveInt, "callbacks.ema.decay": Annotated[float, Field(gt=0, lt=1)],
    "codec.sigma": PositiveFloat,
    "codec.radius": Annotated[float | None, Field(gt=0)], "codec.quantised": bool, "codec.unbiased": bool,
    "codec.flip_shift": Literal[0, 1], "flip_shift": Literal[0, 1], "flip_test": bool, "padding": PositiveFloat,
    "nms_threshold": Annotated[float | None, Field(ge=0, le=1)],
    "box_threshold": _Share, "score_threshold": _Share,
    "alpha_threshold": _Share, "beta_threshold": _Share, "splits": Annotated[list[str], Field(min_length=1)],
    "callbacks.pictures.every": PositiveInt, "callbacks.pictures.persons": PositiveInt, "cache.unbiased": bool,
    "second_look": bool, "detector.download": bool, "detector.every": PositiveInt,
    "tracking.iou": _Share, "tracking.keep": NonNegativeInt, "tracking.score": _Share,
    "smoothing.enabled": bool, "smoothing.min_cutoff": PositiveFloat, "smoothing.beta": NonNegativeFloat,
    "int8.crops": PositiveInt, "int8.max_moved": Annotated[float, Field(gt=0, le=1)],
    "initial": str | None, "ckpt_path": str | None, "architecture": str | None, "checkpoint": str | None,
    "predictions": str | None, "run_root": str, "data_root": str,
    "acceleration.compile": Literal[
        None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"
    ],
    "evaluate_untrained": bool, "restart": bool, "trust": bool, "images": bool,
    "action": Literal["check", "cache"], "method": Literal["exact", "prune", "argmax"],
    # By name: `pnfs runs` need not wait for modules that load torch.
    "codec.decode_method": "pnfs.codec.codec:DecodeMethod",
    "decode_method": "pnfs.codec.codec:DecodeMethod",
    "runtime": "pnfs.inference.predictor:RuntimeName",
    "channel_order": "pnfs.models.network:ChannelOrder",
}  # fmt: skip
"""Key -> what it may hold. Keys of objects are checked by the annotations of their classes besides."""


def checked(command: str, config: DictConfig) -> dict[str, Any]:
    """The resolved configuration; keys that nothing reads, and values of another kind, are refused."""
    known = known_keys(command)
    for key in _unread(OmegaConf.to_container(config, resolve=False), known):
        raise UsageError(f"there is no key {key}{near_match(key, known)}")
    for name in sorted({key.partition(".")[0] for key in known} - {*map(str, config), "callbacks", "logger"}):
        if command != "data" or name != "dataset":  # Whose absence has a message of its own, as that of callbacks.
            raise UsageError(f"{name}: is needed; another choice of it is {name}=..., and --help lists them")
    for key, kind in _KINDS.items():
        # The default where there is no such key in what was chosen, or ??? in it.
        value = OmegaConf.select(config, key, default=_ABSENT)
        if key in known and value is not _ABSENT and not (value is None and known[key] is None):
            given = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            _check(key, given, resolve_name(kind) if isinstance(kind, str) else kind, strict=True)
    settings = plain(config)
    _check_objects(settings, "")
    return settings


@functools.cache
def known_keys(command: str) -> dict[str, Any]:
    """Dotted keys of a command's file and of the files of its groups; key -> value in the file."""
    folder, known, groups = packaged_folder("conf"), {}, []
    for name in ("base", command):
        content = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
        for entry in content.pop("defaults", []):
            known |= known_keys("train") if entry == "train" else {}
            groups += [*entry] if isinstance(entry, dict) else [str(entry).partition("/")[0]]
        content.pop("hydra", None)
        known |= flat(content)
    for entry in groups:
        group, _, package = entry.removeprefix("optional ").partition("@")
        known |= {package.partition(".")[0]: {}} if package else {}
        for path in (folder / group).glob("*.yaml"):
            text = path.read_text(encoding="utf-8")
            content = yaml.safe_load(text) or {}
            content.pop("defaults", None)
            known |= {} if text.startswith("# @package") else flat({group: content})
    return known


def near_match(key: str, known: Mapping[str, Any]) -> str:
    """ "; did you mean ...?", or where else there is such a key, or nothing."""
    if key in known:
        return f"; another choice of {key.partition('.')[0]}= has it"
    same_place = [k for k in known if k.count(".") == key.count(".")]
    same_name = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
    near = get_close_matches(key, same_place, 1, 0.75) or same_name
    return f"; did you mean {near[0]}?" if near else ""


def _unread(tree: Any, known: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Keys of the nodes that are no objects, and that no file of the configuration knows."""
    for key, value in tree.items():
        name = f"{above}{key}"
        if name not in known:
            yield name
        elif isinstance(value, dict) and name not in _FREE and "_target_" not in value:
            yield from _unread(value, known, f"{name}.")


def _check_objects(tree: Any, place: str) -> None:
    """Compares the keys of every node that an object is made of with what its class takes."""
    if isinstance(tree, dict) and "_target_" in tree:
        _check_object(place, tree)
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, (dict, list)):
            _check_objects(value, f"{place}.{key}".lstrip("."))


def _check_object(place: str, node: Mapping[str, Any]) -> None:
    kinds: dict[str, Any] = {}
    try:
        called = resolve_name(node["_target_"])
        parameters = inspect.signature(called).parameters
    except Exception:
        return  # Building it says what is wrong with its class.
    with suppress(Exception):  # Names that only exist for type checkers.
        kinds = get_type_hints(called.__init__ if inspect.isclass(called) else called)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    of_dataset = place.partition(".")[0] in ("dataset", "known")
    _check(f"{place}._partial_", node.get("_partial_", False), bool, strict=True)
    for key, value in node.items():
        # Classes of datasets that know one skeleton only are not told its name.
        if key in _HYDRAS or (of_dataset and key == "skeleton"):
            continue
        if key not in parameters and not takes_any:
            near = get_close_matches(key, parameters, 1)
            hint = f"; did you mean {place}.{near[0]}?" if near else ""
            raise UsageError(f"there is no key {place}.{key}: {node['_target_']} takes none{hint}")
        # A tree is checked where words, numbers, switches or null belong.
        kind = kinds.get(key)
        leaves = (get_args(kind) or (kind,)) if get_origin(kind) is not Literal else ()
        is_plain = all(k in (bool, int, float, str, NoneType) or get_origin(k) is Literal for k in leaves)
        if key in kinds and (is_plain or not isinstance(value, dict)) and "_target_" not in str(value):
            _check(f"{place}.{key}", value, kind)


def _check(key: str, value: Any, kind: Any, *, strict: bool = False) -> None:
    try:
        _adapter(kind).validate_python(value, strict=strict or None)
    except ValidationError as error:
        reasons = dict.fromkeys(each["msg"].replace("Input", "it") for each in error.errors())
        shown = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
        raise UsageError(f"{key}={shown}: {' or '.join(reasons)}") from None
    except Exception:
        return  # A kind that cannot be checked: building the object decides.


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))

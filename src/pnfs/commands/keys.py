"""Keys of the command line and of recipes: each is read by somebody, and holds a value of the right kind."""

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pnfs.commands.configuration import UsageError, packaged_folder, plain
from pnfs.runs.identity import flat

_FREE = ("parts", "operations", "callbacks", "logger", "known")
"""Groups whose keys are names that a user may choose."""

_HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")

_Yes = Annotated[bool, Field(strict=True)]
_Some = Annotated[int, Field(ge=0, strict=True)]
_Count = Annotated[int, Field(gt=0, strict=True)]
_ZeroOrOne = Annotated[int, Field(ge=0, le=1, strict=True)]
_Positive = Annotated[float, Field(gt=0, strict=True)]
_Share = Annotated[float | None, Field(ge=0, le=1, strict=True)]
_Side = Annotated[int, Field(ge=32, multiple_of=32, strict=True)]

_KINDS: Mapping[str, Any] = {
    "seed": _Some, "epochs": _Count, "batch_size": _Count, "eval_batch_size": _Count, "workers": _Some,
    "input_size": tuple[_Side, _Side],
    # Null in the commands that train nothing.
    "trainer.max_epochs": Annotated[int | None, Field(gt=0, strict=True)],
    "optimizer.lr": _Positive,
    "codec.sigma": _Positive, "codec.radius": Annotated[float | None, Field(gt=0, strict=True)],
    "codec.quantised": _Yes, "codec.unbiased": _Yes, "codec.flip_shift": _ZeroOrOne,
    "flip_shift": _ZeroOrOne, "flip_test": _Yes, "padding": _Positive,
    "nms_threshold": _Share, "box_threshold": _Share, "score_threshold": _Share,
    "second_look": _Yes, "detector.download": _Yes, "detector.every": _Count,
    "tracking.iou": _Share, "tracking.keep": _Some, "tracking.score": _Share,
    "smoothing.enabled": _Yes, "smoothing.min_cutoff": _Positive,
    "smoothing.beta": Annotated[float, Field(ge=0, strict=True)],
    "int8.crops": _Count, "int8.max_moved": Annotated[float, Field(gt=0, le=1, strict=True)],
    "initial": str | None, "ckpt_path": str | None, "architecture": str | None, "checkpoint": str | None,
    "predictions": str | None, "run_root": str, "data_root": str,
    "acceleration.compile": Literal[
        None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"
    ],
    "evaluate_untrained": _Yes, "restart": _Yes, "trust": _Yes,
    "action": Literal["check", "cache"], "images": _Yes, "method": Literal["exact", "prune", "argmax"],
    # By name: `pnfs runs` need not wait for modules that load torch.
    "codec.decode_method": "pnfs.codec.codec:DecodeMethod",
    "decode_method": "pnfs.codec.codec:DecodeMethod",
    "runtime": "pnfs.inference.predictor:RuntimeName",
    "outputs": "pnfs.export.runtimes:Outputs",
    "channel_order": "pnfs.models.network:ChannelOrder",
}  # fmt: skip
"""Key -> what it may hold. Keys of objects are checked by the annotations of their classes besides."""


def checked(command: str, config: DictConfig) -> dict[str, Any]:
    """The resolved configuration; keys that nothing reads, and values of another kind, are refused."""
    known = known_keys(command)
    for key in _unread(OmegaConf.to_container(config, resolve=False), known):
        raise UsageError(f"there is no key {key}{near_match(key, known)}")
    for key, kind in _KINDS.items():
        value = OmegaConf.select(config, key)
        left_open = value is None and (known.get(key) is None or OmegaConf.is_missing(config, key))
        if key in known and not left_open:
            given = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            _check(key, given, resolve_name(kind) if isinstance(kind, str) else kind)
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
    """ "; did you mean ...?", or nothing."""
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
            _check_objects(value, f"{place}.{key}" if place else str(key))


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
    _check(f"{place}._partial_", node.get("_partial_", False), _Yes)
    for key, value in node.items():
        # Classes of datasets that know one skeleton only are not told its name.
        if key in _HYDRAS or (of_dataset and key == "skeleton"):
            continue
        if key not in parameters and not takes_any:
            near = get_close_matches(key, parameters, 1)
            hint = f"; did you mean {place}.{near[0]}?" if near else ""
            raise UsageError(f"there is no key {place}.{key}: {node['_target_']} takes none{hint}")
        is_tree = isinstance(value, dict) and not _is_plain(kinds.get(key))
        if key in kinds and not is_tree and "_target_" not in str(value):
            _check(f"{place}.{key}", value, kinds[key])


def _is_plain(kind: Any) -> bool:
    """Whether values of this kind are words, numbers, switches or null."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return all(one in (bool, int, float, str, NoneType) or get_origin(one) is Literal for one in kinds)


def _check(key: str, value: Any, kind: Any) -> None:
    try:
        _adapter(kind).validate_python(value)
    except ValidationError as error:
        reasons = dict.fromkeys(each["msg"].replace("Input", "it") for each in error.errors())
        shown = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
        raise UsageError(f"{key}={shown}: {' or '.join(reasons)}") from None
    except Exception:
        return  # A kind that cannot be checked: building the object decides.


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))

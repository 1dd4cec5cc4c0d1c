"""Keys of the command line and of recipes: each is read by somebody, and holds a value of the right kind."""

import functools
import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import Annotated, Any, get_args, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pnfs.commands.configuration import UsageError, configuration_folder

_FREE = ("parts", "operations", "callbacks", "logger", "known")
"""Groups whose keys are names that a user may choose."""

_HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")

_Count = Annotated[int, Field(gt=0, strict=True)]
_Some = Annotated[int, Field(ge=0, strict=True)]
_Positive = Annotated[float, Field(gt=0, strict=True)]
_CountOrNone = Annotated[int | None, Field(gt=0, strict=True)]
_PositiveOrNone = Annotated[float | None, Field(gt=0, strict=True)]
_ShareOrNone = Annotated[float | None, Field(ge=0, le=1, strict=True)]
_Yes = Annotated[bool, Field(strict=True)]
_Side = Annotated[int, Field(ge=32, multiple_of=32, strict=True)]

# Key -> what it may hold, and in words. Keys of objects are checked by the annotations of their classes besides.
_VALUES: Mapping[str, tuple[Any, str]] = {
    "seed": (_Some, "a whole number from 0"),
    "epochs": (_Count, "a whole number above 0"),
    # Null in the commands that train nothing.
    "trainer.max_epochs": (_CountOrNone, "a whole number above 0"),
    "batch_size": (_Count, "a whole number above 0"),
    "eval_batch_size": (_Count, "a whole number above 0"),
    "workers": (_Some, "a whole number from 0"),
    "input_size": (tuple[_Side, _Side], "[height, width], multiples of 32"),
    "optimizer.lr": (_Positive, "a number above 0"),
    "codec.sigma": (_Positive, "a number above 0"),
    "codec.radius": (_PositiveOrNone, "a number above 0, or null"),
    "codec.quantised": (_Yes, "true or false"),
    "codec.unbiased": (_Yes, "true or false"),
    "codec.flip_shift": (Annotated[int, Field(ge=0, le=1, strict=True)], "0 or 1"),
    "flip_shift": (Annotated[int, Field(ge=0, le=1, strict=True)], "0 or 1"),
    "flip_test": (_Yes, "true or false"),
    "nms_threshold": (_ShareOrNone, "an OKS from 0 to 1, or null"),
    "box_threshold": (_ShareOrNone, "a number from 0 to 1"),
    "score_threshold": (_ShareOrNone, "a number from 0 to 1"),
    "int8.crops": (_Count, "a whole number above 0"),
    "int8.max_moved": (Annotated[float, Field(gt=0, le=1, strict=True)], "a share above 0, to 1"),
    "padding": (_Positive, "a number above 0"),
    "evaluate_untrained": (_Yes, "true or false"),
    "restart": (_Yes, "true or false"),
    "trust": (_Yes, "true or false"),
}  # fmt: skip

# Key -> the type that lists its choices, by name: `pnfs runs` need not wait for modules that load torch.
_CHOICES: Mapping[str, str] = {
    "codec.decode_method": "pnfs.codec.decode:DecodeMethod",
    "decode_method": "pnfs.codec.decode:DecodeMethod",
    "runtime": "pnfs.inference.loading:RuntimeName",
    "outputs": "pnfs.export.metadata:Outputs",
    "channel_order": "pnfs.models.network:ChannelOrder",
}


def check_keys(command: str, config: DictConfig) -> None:
    """Refuses keys that nothing reads, and values of another kind, before anything is built.

    Raises:
        UsageError: Names the key, and the nearest that there is, or what it may hold.
    """
    known = known_keys(command)
    tree = OmegaConf.to_container(config, resolve=False)
    for key in _unread(tree, known):
        raise UsageError(f"there is no key {key}{near_match(key, known)}")
    for key in (*_VALUES, *_CHOICES):
        value = OmegaConf.select(config, key)
        if key not in known or (value is None and known[key] is None):
            continue
        if key in _CHOICES:
            kind = resolve_name(_CHOICES[key])
            words = f"one of {', '.join(get_args(kind))}"
        else:
            kind, words = _VALUES[key]
        _check(key, value, kind, f"must be {words}")
    for key, node in _objects(OmegaConf.to_container(config, resolve=True), ""):
        _check_object(key, node)


@functools.cache
def known_keys(command: str) -> dict[str, Any]:
    """Dotted keys of a command's file and of the files of its groups; key -> value in the file."""
    folder, known, groups = configuration_folder(), {}, []
    for name in ("base", command):
        content = yaml.safe_load((folder / f"{name}.yaml").read_text())
        for entry in content.pop("defaults", []):
            if entry == "train":
                known |= known_keys("train")
            groups += [*entry] if isinstance(entry, dict) else [str(entry).partition("/")[0]]
        content.pop("hydra", None)
        known |= dict(_flat(content))
    for entry in groups:
        group, _, package = entry.removeprefix("optional ").partition("@")
        known |= {package.partition(".")[0]: {}} if package else {}
        for path in (folder / group).glob("*.yaml"):
            text = path.read_text()
            content = yaml.safe_load(text) or {}
            content.pop("defaults", None)
            if not text.startswith("# @package"):
                known |= {group: {}} | dict(_flat(content, f"{group}."))
    return known


def near_match(key: str, known: Mapping[str, Any]) -> str:
    """ "; did you mean ...?", or nothing."""
    last = key.rpartition(".")[2]
    others = [k for k in known if k != key]
    same_place = [k for k in others if k.count(".") == key.count(".")]
    near = get_close_matches(key, same_place, 1, 0.75) or [
        k for k in others if k.rpartition(".")[2] == last
    ]
    return f"; did you mean {near[0]}?" if near else ""


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        yield f"{above}{key}", value
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")


def _unread(tree: Any, known: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Keys of the nodes that are no objects, and that no file of the configuration knows."""
    for key, value in tree.items():
        name = f"{above}{key}"
        if name not in known:
            yield name
        elif isinstance(value, dict) and name not in _FREE and "_target_" not in value:
            yield from _unread(value, known, f"{name}.")


def _objects(tree: Any, above: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node that an object is made of, with its dotted key."""
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield above, tree
        for key, value in tree.items():
            yield from _objects(value, f"{above}.{key}" if above else str(key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _objects(value, f"{above}.{index}")


def _check_object(place: str, node: Mapping[str, Any]) -> None:
    """Compares the keys of a node with what its class takes."""
    try:
        called = resolve_name(node["_target_"])
        parameters = inspect.signature(called).parameters
    except Exception:
        return  # Building it says what is wrong with its class.
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    kinds = _annotations(called)
    for key, value in node.items():
        # Classes of datasets that know one skeleton only are not told its name.
        of_dataset = place.partition(".")[0] in ("dataset", "known")
        if key in _HYDRAS or (of_dataset and key == "skeleton"):
            continue
        if key not in parameters and not takes_any:
            near = get_close_matches(key, parameters, 1)
            hint = f"; did you mean {place}.{near[0]}?" if near else ""
            raise UsageError(f"there is no key {place}.{key}: {node['_target_']} takes none{hint}")
        if key in kinds and not isinstance(value, dict) and "_target_" not in str(value):
            shown = str(kinds[key]).replace("typing.", "")
            shown = getattr(kinds[key], "__name__", shown) if "[" not in shown else shown
            _check(f"{place}.{key}", value, kinds[key], f"{node['_target_']} takes {shown}")


def _annotations(called: Any) -> dict[str, Any]:
    function = called.__init__ if inspect.isclass(called) else called
    try:
        return get_type_hints(function)
    except Exception:
        return {}  # Names that only exist for type checkers.


def _check(key: str, value: Any, kind: Any, words: str) -> None:
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    try:
        _adapter(kind).validate_python(plain)
    except ValidationError:
        text = ",".join(map(str, plain)) if isinstance(plain, list) else None
        raise UsageError(f"{key}={plain if text is None else f'[{text}]'}: {words}") from None
    except Exception:
        return  # A kind that cannot be checked: building the object decides.


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))

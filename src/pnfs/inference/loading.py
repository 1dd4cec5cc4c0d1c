"""From a checkpoint or an exported file to an object that predicts (`pnfs.load`, `pnfs predict`)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pnfs.body import SKELETONS, Skeleton
from pnfs.codec import Codec, DecodeMethod
from pnfs.errors import PnfsError
from pnfs.export.runtimes import OnnxRuntime, OpenVinoRuntime, Precision
from pnfs.inference.predictor import Predictor
from pnfs.inference.runtime import Runtime, TorchRuntime, choose_device
from pnfs.models import PoseNetwork
from pnfs.training.checkpoints import (
    CONFIG_KEY,
    CheckpointError,
    find_checkpoint,
    read_checkpoint,
    without_downloads,
)
from pnfs.training.module import load_network_state

DEFAULT_PADDING = 1.25  # Factor on person boxes, as the datasets' loaders have it.


RuntimeName = Literal["torch", "onnx", "openvino"]
BuildNetwork = Callable[[Mapping[str, Any]], PoseNetwork]


def load_predictor(
    checkpoint: str | Path,
    device: str = "auto",
    *,
    build: BuildNetwork,
    runtime: RuntimeName | None = None,
    precision: Precision | None = None,
    padding: float | None = None,
    decode_method: DecodeMethod | None = None,
    flip_shift: Literal[0, 1] | None = None,
    batch_size: int = 16,
    trust: bool = False,
) -> Predictor:
    """See `pnfs.load`.

    Args:
        build: From the model's part of a checkpoint's configuration to the network.
    """
    path = find_checkpoint(checkpoint)
    runtime = chosen_runtime(path, runtime, precision)
    if runtime != "torch":
        openvino = runtime == "openvino"
        exported = OpenVinoRuntime(path, precision=precision) if openvino else OnnxRuntime(path)
        forward: Runtime = exported  # type: ignore[assignment]
        trained_as = exported.metadata
        if trained_as.outputs != "maps":
            raise PnfsError(
                f"{path} returns joints, from which no flip test can be made; export the checkpoint with "
                "outputs=maps"
            )
        # For a skeleton that a dataset's file describes, the model's file has the joints.
        described = (
            trained_as.skeleton, trained_as.joints, trained_as.flip_pairs, trained_as.limbs,
        )  # fmt: skip
        skeleton = SKELETONS.get(trained_as.skeleton) or Skeleton(*described)
        input_size, codec, usual = trained_as.input_size, trained_as.codec, trained_as.padding
    else:
        content = read_checkpoint(path, builds=("model",), trust=trust)
        trained = without_downloads(content[CONFIG_KEY])
        network = build(trained["model"])
        try:
            load_network_state(network, content["state_dict"])
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: its weights do not fit the network that its configuration describes ({error})"
            ) from error
        forward = TorchRuntime(network, choose_device(device))
        skeleton, input_size = network.parts.skeleton, _input_size(trained, path)
        codec = Codec(**trained.get("codec", {}))
        usual = trained["dataset"].get("padding", DEFAULT_PADDING)
    asked = {"decode_method": decode_method, "flip_shift": flip_shift}
    return Predictor(
        forward,
        skeleton=skeleton,
        input_size=input_size,
        codec=replace(codec, **{key: value for key, value in asked.items() if value is not None}),
        padding=usual if padding is None else padding,
        batch_size=batch_size,
    )


def chosen_runtime(path: Path, runtime: str | None, precision: str | None) -> RuntimeName:
    """The runtime that is asked for, or else the file's own.

    Raises:
        ValueError: It cannot take the file, or has no choice of precision.
    """
    chosen = runtime or ("onnx" if path.suffix == ".onnx" else "torch")
    if chosen not in get_args(RuntimeName):
        raise PnfsError(f"unknown runtime {chosen!r}; there are {', '.join(get_args(RuntimeName))}")
    if (chosen == "torch") == (path.suffix == ".onnx"):
        raise PnfsError(
            f"runtime={chosen} cannot take {path}: torch takes a checkpoint, onnx and openvino take a "
            "file that `pnfs export` wrote (.onnx)"
        )
    if precision is not None and chosen != "openvino":
        raise PnfsError(
            f"precision={precision}: runtime={chosen} computes in the precision of what it is given; the key "
            "precision is for runtime=openvino"
        )
    return cast(RuntimeName, chosen)


def runtime_of(predictor: Predictor) -> dict[str, str]:
    """Runtime and precision, as they stand beside scores."""
    kinds = {OnnxRuntime: "onnx", OpenVinoRuntime: "openvino"}
    name = kinds.get(type(predictor.forward), "torch")  # type: ignore[arg-type]
    return {"runtime": name, "precision": getattr(predictor.forward, "precision", "f32")}


def trained_unbiased(trained: Mapping[str, Any]) -> bool:
    """Whether a run's crops and maps are measured in pixel intervals (UDP); see `crop_matrix`."""
    return bool(trained.get("codec", {}).get("unbiased", False))


def _input_size(trained: dict[str, Any], path: Path) -> tuple[int, int]:
    match trained.get("input_size"):
        case [int(height), int(width)]:
            return height, width
        case other:
            raise CheckpointError(f"{path}: its input_size is {other!r}, not [height, width]")

"""From a checkpoint or an exported file to an object that predicts (`pnfs.load`, `pnfs predict`)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pnfs.body import SKELETONS, Skeleton
from pnfs.codec import Codec, DecodeMethod
from pnfs.errors import PnfsError
from pnfs.export.runtimes import OnnxRuntime, OpenVinoRuntime, Precision
from pnfs.inference.predictor import Predictor, Runtime, TorchRuntime, choose_device
from pnfs.models import PoseNetwork
from pnfs.training.checkpoints import (
    CONFIG_KEY,
    CheckpointError,
    find_checkpoint,
    load_network_state,
    read_checkpoint,
    without_downloads,
)

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
    """See `pnfs.load`; `build` goes from the model's part of a checkpoint's configuration to the network."""
    path = find_checkpoint(checkpoint)
    runtime = chosen_runtime(path, runtime, precision)
    if runtime == "torch":
        content = read_checkpoint(path, builds=("model",), trust=trust)
        trained = without_downloads(content[CONFIG_KEY])
        network = build(trained["model"])
        load_network_state(network, content, path)
        forward: Runtime = TorchRuntime(network, choose_device(device))
        skeleton, codec = network.parts.skeleton, Codec(**trained.get("codec", {}))
        usual = trained["dataset"].get("padding", DEFAULT_PADDING)
        match trained.get("input_size"):
            case [int(height), int(width)]:
                input_size = height, width
            case other:
                raise CheckpointError(f"{path}: its input_size is {other!r}, not [height, width]")
    else:
        openvino = runtime == "openvino"
        exported = OpenVinoRuntime(path, precision=precision) if openvino else OnnxRuntime(path)
        forward, known = cast(Runtime, exported), exported.metadata
        if known.outputs != "maps":
            text = "returns joints, from which no flip test can be made; export it with outputs=maps"
            raise PnfsError(f"{path} {text}")
        # For a skeleton that a dataset's file describes, the model's file has the joints.
        described = known.skeleton, known.joints, known.flip_pairs, known.limbs
        skeleton = SKELETONS.get(known.skeleton) or Skeleton(*described)
        input_size, codec, usual = known.input_size, known.codec, known.padding
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
        PnfsError: It cannot take the file, or has no choice of precision.
    """
    exported = path.suffix == ".onnx"
    chosen = runtime or ("onnx" if exported else "torch")
    if chosen not in get_args(RuntimeName):
        raise PnfsError(f"unknown runtime {chosen!r}; there are {', '.join(get_args(RuntimeName))}")
    if (chosen == "torch") == exported:
        text = "torch takes a checkpoint, onnx and openvino a file that `pnfs export` wrote (.onnx)"
        raise PnfsError(f"runtime={chosen} cannot take {path}: {text}")
    if precision is not None and chosen != "openvino":
        text = "computes in the precision of what it is given; the key is for runtime=openvino"
        raise PnfsError(f"precision={precision}: runtime={chosen} {text}")
    return cast(RuntimeName, chosen)


def runtime_of(predictor: Predictor) -> dict[str, str]:
    """Runtime and precision, as they stand beside scores."""
    kinds = {OnnxRuntime: "onnx", OpenVinoRuntime: "openvino"}
    name = kinds.get(type(predictor.forward), "torch")  # type: ignore[arg-type]
    return {"runtime": name, "precision": getattr(predictor.forward, "precision", "f32")}

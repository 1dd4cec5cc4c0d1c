"""Exported files: what one says about itself, and the runtimes, images in, heatmaps out."""

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8
from pydantic import TypeAdapter, ValidationError

from pnfs.codec import Codec
from pnfs.errors import PnfsError

Maps = Float[np.ndarray, "B K h/4 w/4"]
Images = UInt8[np.ndarray, "B h w 3"]

Precision = Literal["f32", "bf16"]  # What OpenVINO computes a float32 file in.
FilePrecision = Literal["f32", "int8"]  # All of a file, or most of its convolutions.


class ExportError(PnfsError):
    """A model that cannot be exported, or an exported file that cannot be used."""


@dataclass(frozen=True)
class ModelMetadata:
    """Properties of an exported model, written into the file under keys that begin with "pnfs."; fields of the
    skeleton, joints in the order of the outputs, and of the `Codec` are among them."""

    input_size: tuple[int, int]  # (height, width) of the images.
    stride: int  # Image pixels for each pixel of a heatmap.
    skeleton: str  # Its name.
    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]
    flip_pairs: tuple[tuple[str, str], ...]
    decode_method: str = "quarter"
    sigma: float = 2.0
    unbiased: bool = False
    flip_shift: int = 1
    padding: float = 1.25  # Factor on the sides of a person's box, as in training.
    checkpoint: str = ""  # SHA-256 of the checkpoint's file; "" without one.
    precision: FilePrecision = "f32"
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()  # Names of the parts, each with its joints.
    oks_sigmas: tuple[float, ...] | None = None  # The skeleton's; None: none, or of an earlier version.

    @property
    def codec(self) -> Codec:
        """How heatmaps are read and crops measured."""
        names = (field.name for field in fields(Codec) if hasattr(self, field.name))
        return Codec(**{name: getattr(self, name) for name in names})

    def to_properties(self) -> dict[str, str]:
        """Key -> JSON text."""
        return {f"pnfs.{k}": json.dumps(v, allow_nan=False) for k, v in asdict(self).items()}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], where: object) -> "ModelMetadata":
        """The inverse of `to_properties`, for the file `where`; other properties are left aside.

        Raises:
            ExportError: Something is missing or damaged; names the property.
        """
        values, name = {}, "outputs"
        try:
            if properties.get("pnfs.outputs", '"maps"') != '"maps"':
                raise KeyError  # Earlier files may return joints.
            for name in (field.name for field in fields(cls)):
                if name != "oks_sigmas" or f"pnfs.{name}" in properties:
                    values[name] = json.loads(properties[f"pnfs.{name}"])
            return TypeAdapter(cls).validate_python(values)
        except (KeyError, json.JSONDecodeError, ValidationError) as error:
            key = error.errors()[0]["loc"][0] if isinstance(error, ValidationError) else name
            text = f"its property pnfs.{key} is missing, damaged, or of another version"
            raise ExportError(f"{where}: {text}; run `pnfs export` again") from None


class Runtime:
    """A model that `pnfs export` wrote, to be called on the CPU with so many threads; None for one a core.

    Attributes:
        metadata: What the file says about itself.
        precision: What is computed in: f32, bf16 or int8.

    Raises:
        ExportError: The package is missing, or the file is not one of ours or damaged.
    """

    metadata: ModelMetadata
    precision: str

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise ExportError(f"{self.path}: there is no such file; `pnfs export` writes one")
        if threads is not None and threads < 1:
            raise ExportError(f"threads must be at least 1, got {threads}")

    def __call__(self, images: Images) -> Maps:
        """RGB crops of the model's input size to heatmaps, one a joint.

        Raises:
            ExportError: The images have another type or shape.
        """
        wanted = (*self.metadata.input_size, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != wanted:
            got = f"{images.dtype} {images.shape}"
            raise ExportError(f"images must be uint8 (B, {', '.join(map(str, wanted))}), got {got}")
        return self._run(images)

    def _run(self, images: Images) -> Maps:
        raise NotImplementedError


class OnnxRuntime(Runtime):
    """An exported model in ONNX Runtime; see `Runtime`."""

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        onnxruntime = library("onnxruntime", extra="onnx")
        super().__init__(path, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0 stands for one a core.
        providers = ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers)
        except Exception as error:
            raise ExportError(f"{self.path}: ONNX Runtime cannot read it: {error}") from error
        properties = self._session.get_modelmeta().custom_metadata_map
        self.metadata = ModelMetadata.from_properties(properties, self.path)
        self.precision = self.metadata.precision

    def _run(self, images: Images) -> Maps:
        return self._session.run(None, {"images": images})[0]


class OpenVinoRuntime(Runtime):
    """An exported model in OpenVINO; see `Runtime`.

    Shapes are fixed when a batch size is first seen, since a model of fixed shape runs faster. `precision` is for
    files that were exported in float32 (else ExportError, as without such a processor); None is f32, also where
    the processor has a faster, coarser type that OpenVINO would take by itself.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, *, precision: Precision | None = None
    ) -> None:
        openvino = library("openvino", extra="openvino")
        super().__init__(path, threads)
        self._core = _kept(openvino.Core)
        try:
            self._model = self._core.read_model(self.path)
            # The ONNX file's properties.
            has = self._model.has_rt_info("framework")
            entries = self._model.get_rt_info()["framework"] if has else {}
            properties = {name: str(entry.value) for name, entry in entries.items()}
        except Exception as error:
            raise ExportError(f"{self.path}: OpenVINO cannot read it: {error}") from error
        self.metadata = ModelMetadata.from_properties(properties, self.path)
        if precision not in (None, *get_args(Precision)):
            raise ExportError(f"precision={precision}: OpenVINO has {get_args(Precision)}")
        if precision is not None and self.metadata.precision != "f32":
            raise ExportError(f"precision={precision}: {self.path} is in int8; leave the key out")
        # Processors without bfloat16 would compute in float32, under another name.
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in able:
            raise ExportError("precision=bf16: this processor does not have it; take precision=f32")
        chosen = precision or "f32"
        self.precision = "int8" if self.metadata.precision == "int8" else chosen
        self._options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": chosen}
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = str(threads)
        self._requests: dict[int, Any] = {}

    def _run(self, images: Images) -> Maps:
        request = self._requests.get(len(images))
        if request is None:
            model = self._model.clone()
            model.reshape([len(images), *self.metadata.input_size, 3])
            compiled = self._core.compile_model(model, "CPU", self._options)
            request = self._requests[len(images)] = compiled.create_infer_request()
        # The request's next call overwrites its own memory.
        return np.array(request.infer([images], share_inputs=True)[0])


@cache
def _kept(core: Any) -> Any:
    """OpenVINO's core, one for all models and never given back, so that its CPU plugin begins once: where several
    have ended, the process is left with an unmapped signal stack, and the next signal kills it."""
    return core()


def library(name: str, extra: str) -> ModuleType:
    """An optional package.

    Raises:
        ExportError: It is not installed; names the extra of ours that brings it.
    """
    # `import openvino` reports its use to a server through another package. It has no switch for that which a
    # program can set, but sends nothing where that package is not installed.
    telemetry = "openvino_telemetry"
    hidden = telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        text = f"the package {name} is not installed: pip install 'pnfs[{extra}]' ({error})"
        raise ExportError(text) from error
    finally:
        if hidden:
            del sys.modules[telemetry]

"""Exported models behind one call: images in, heatmaps or joints out."""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8

from pnfs.export.metadata import ExportError, ModelMetadata

Maps = Float[np.ndarray, "B K h/4 w/4"]
Joints = tuple[Float[np.ndarray, "B K 2"], Float[np.ndarray, "B K"]]
Images = UInt8[np.ndarray, "B h w 3"]

Precision = Literal["f32", "bf16"]
"""What OpenVINO computes a float32 file in: float32, or bfloat16 where the processor has it."""

_TELEMETRY = "openvino_telemetry"


class Runtime:
    """An exported model that can be called, on the CPU.

    Args:
        path: File that `pnfs export` wrote.
        threads: Threads to compute with; None for one a core.

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

    def __call__(self, images: Images) -> Maps | Joints:
        """Crops of the model's input size, RGB, to its outputs.

        Returns:
            Heatmaps, or joints (x and y in pixels of the crop) and their scores; see `ModelMetadata.outputs`.

        Raises:
            ExportError: The images have another type or shape.
        """
        wanted = (*self.metadata.input_size, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != wanted:
            raise ExportError(
                f"images must be uint8 (B, {wanted[0]}, {wanted[1]}, 3), got {images.dtype} {images.shape}"
            )
        outputs = self._run(images)
        return outputs[0] if len(outputs) == 1 else (outputs[0], outputs[1])

    def _run(self, images: Images) -> Sequence[np.ndarray]:
        raise NotImplementedError


class OnnxRuntime(Runtime):
    """An exported model in ONNX Runtime; see `Runtime`."""

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        library = _library("onnxruntime", extra="onnx")
        super().__init__(path, threads)
        options = library.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0 stands for one a core.
        providers = ["CPUExecutionProvider"]
        try:
            self._session = library.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:
            raise ExportError(f"{self.path}: ONNX Runtime cannot read it: {error}") from error
        properties = self._session.get_modelmeta().custom_metadata_map
        self.metadata = ModelMetadata.from_properties(properties, self.path)
        self.precision = self.metadata.precision

    def _run(self, images: Images) -> Sequence[np.ndarray]:
        return self._session.run(None, {"images": images})


class OpenVinoRuntime(Runtime):
    """An exported model in OpenVINO; see `Runtime`.

    Shapes are fixed when a batch size is first seen, since a model of fixed shape runs faster.

    Args:
        path: File that `pnfs export` wrote.
        threads: Threads to compute with; None for one a core.
        precision: "f32" or "bf16", of files that were exported in float32. None: f32, also where the
            processor has a faster, coarser type that OpenVINO would take by itself.

    Raises:
        ExportError: As `Runtime`, or there is no such precision on this processor or for this file.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        *,
        precision: Precision | None = None,
    ) -> None:
        library = _library("openvino", extra="openvino")
        super().__init__(path, threads)
        self._core = library.Core()
        try:
            self._model = self._core.read_model(self.path)
            # The ONNX file's properties.
            has = self._model.has_rt_info("framework")
            entries = self._model.get_rt_info()["framework"] if has else {}
            properties = {name: str(entry.value) for name, entry in entries.items()}
        except Exception as error:
            raise ExportError(f"{self.path}: OpenVINO cannot read it: {error}") from error
        self.metadata = ModelMetadata.from_properties(properties, self.path)
        is_float = self.metadata.precision == "f32"
        if precision is not None:
            _check_precision(precision, self.path, is_float, self._core)
        chosen = precision or "f32"
        self.precision = chosen if is_float else self.metadata.precision
        self._options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": chosen}
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = str(threads)
        self._requests: dict[int, Any] = {}

    def _run(self, images: Images) -> Sequence[np.ndarray]:
        request = self._requests.get(len(images))
        if request is None:
            model = self._model.clone()
            model.reshape([len(images), *self.metadata.input_size, 3])
            compiled = self._core.compile_model(model, "CPU", self._options)
            request = self._requests[len(images)] = compiled.create_infer_request()
        results = request.infer([images], share_inputs=True)
        # The request's next call overwrites its own memory.
        return [np.array(results[index]) for index in range(len(results))]


def _check_precision(precision: str, path: Path, is_float: bool, core: Any) -> None:
    if precision not in get_args(Precision):
        raise ExportError(
            f"precision={precision}: OpenVINO computes in {' or '.join(get_args(Precision))}"
        )
    if not is_float:
        raise ExportError(
            f"precision={precision}: {path} was exported with precision=int8, which leaves no choice; leave "
            "the key out"
        )
    # Such processors would compute in float32, under another name.
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ExportError(
            "precision=bf16: this processor does not compute in bfloat16; take precision=f32"
        )


def _library(name: str, extra: str) -> ModuleType:
    try:
        with _without_telemetry():
            return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            f"the package {name} is not installed: pip install 'pnfs[{extra}]' ({error})"
        ) from error


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hides the package through which `import openvino` reports its use to a server.

    OpenVINO has no switch for that which a program can set, but sends nothing where the package is not installed.
    """
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]

"""Exported files, in float32 and 8-bit integers, against PyTorch; what they say, and what is refused."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import TensorProto

import pnfs
from pnfs.body import MPII
from pnfs.codec import Codec
from pnfs.export import onnx_model
from pnfs.export.onnx_model import Calibration, export_onnx, quantise
from pnfs.export.runtimes import ExportError, ModelMetadata, OnnxRuntime, OpenVinoRuntime
from pnfs.models import PoseFabricNetwork
from tiny import fabric_backbone, fabric_network
from tiny_runs import WATCH

SIZE = (64, 96)
# Overlapping parts, so that the maps of two joints are sums.
PARTS = {"upper": MPII.joints[:9], "lower": MPII.joints[7:]}
RUNTIMES = pytest.mark.parametrize("runtime", [OnnxRuntime, OpenVinoRuntime])


def smooth(count: int, seed: int) -> np.ndarray:
    """Crops with larger structures than noise has, as photographs do."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3), np.uint8)
    return np.stack([cv2.resize(x, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for x in small])


def build(seed: int = 0, **options) -> PoseFabricNetwork:
    torch.manual_seed(seed)
    network = fabric_network(PARTS, backbone=fabric_backbone(channels=2), channels=2, **options).eval()
    for parameter in network.architecture_parameters().values():
        torch.nn.init.normal_(parameter)
    network.calibrate(torch.randn(4, 3, *SIZE))
    return network


@pytest.fixture(scope="module")
def network() -> PoseFabricNetwork:
    return build(last_layers=1)


@pytest.fixture(scope="module")
def f32_file(network: PoseFabricNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "f32.onnx"
    options = {"checkpoint": "abc", "codec": Codec(flip_shift=0), "padding": 1.5}
    report = export_onnx(network, path, input_size=SIZE, **options)
    assert set(report.differences) == {1, 3}
    assert max(report.differences.values()) < 1e-5
    return path


@RUNTIMES
@pytest.mark.parametrize("batch", [1, 5])
def test_maps_equal_those_of_the_network(network, f32_file, runtime, batch: int) -> None:
    crops, run = smooth(batch, batch), runtime(f32_file, threads=1)
    found = run(crops)
    run(255 - crops)  # Results stay when the runtime is called again.
    with torch.no_grad():
        expected = network.heatmaps(torch.from_numpy(crops)).numpy()
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5)
    skeleton = {"joints": MPII.joints, "limbs": MPII.limbs, "flip_pairs": MPII.flip_pairs}
    options = {"flip_shift": 0, "padding": 1.5, "checkpoint": "abc", "parts": tuple(PARTS.items())}
    assert run.metadata == ModelMetadata(SIZE, 4, "mpii", **skeleton, **options)
    graph = onnx.load(f32_file).graph
    assert not {node.op_type for node in graph.node} & {"BatchNormalization", "Softmax"}


def test_a_file_that_differs_is_refused_and_replaces_none(f32_file, tmp_path: Path, monkeypatch) -> None:
    file, content, scalar = tmp_path / "wrong.onnx", f32_file.read_bytes(), build(1, vector_dim=1)
    file.write_bytes(b"good")
    # In place of the network's file, another network's.
    monkeypatch.setattr(onnx_model, "_write", lambda model, path, _: path.write_bytes(content))
    with pytest.raises(ExportError, match=r"wrong\.onnx: .* differ from PyTorch's by"):
        export_onnx(scalar, file, input_size=SIZE)
    for size in [(64, 65), (0, 64)]:
        with pytest.raises(ExportError, match="divide by 32"):
            export_onnx(scalar, file, input_size=size)
    assert [(path, path.read_bytes()) for path in tmp_path.iterdir()] == [(file, b"good")]


@RUNTIMES
def test_images_and_files_that_do_not_fit(f32_file, runtime, tmp_path: Path, monkeypatch) -> None:
    run = runtime(f32_file, threads=1)
    for wrong in (smooth(1, 0).astype(np.float32), smooth(1, 0)[0], smooth(1, 0)[:, :32]):
        with pytest.raises(ExportError, match=r"uint8 \(B, 64, 96, 3\)"):
            run(wrong)
    (tmp_path / "broken.onnx").write_bytes(f32_file.read_bytes()[:1000])
    model = onnx.load(f32_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    problems = {"absent": "no such file", "broken": r"broken\.onnx", "foreign": r"pnfs\.input_size is missing"}
    for name, named in problems.items():
        with pytest.raises(ExportError, match=named):
            runtime(tmp_path / f"{name}.onnx")
    with pytest.raises(ExportError, match="threads"):
        runtime(f32_file, threads=0)
    package = {OnnxRuntime: "onnxruntime", OpenVinoRuntime: "openvino"}[runtime]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=r"pip install 'pnfs\[(onnx|openvino)\]'"):
        runtime(f32_file)


def test_metadata_come_back_and_damaged_ones_are_named() -> None:
    metadata = ModelMetadata((64, 64), 4, "mpii", ("a",), (), ())
    properties = metadata.to_properties()
    del properties["pnfs.oks_sigmas"]  # As earlier files.
    assert ModelMetadata.from_properties(properties, "f") == metadata
    for name, value in (("stride", "{"), ("precision", '"int4"'), ("outputs", '"joints"')):
        with pytest.raises(ExportError, match=f"f: its property pnfs.{name}"):
            ModelMetadata.from_properties({**properties, f"pnfs.{name}": value}, "f")


def test_the_joints_are_those_of_the_file_whatever_skeleton_has_its_name(f32_file, tmp_path: Path) -> None:
    mine = replace(OnnxRuntime(f32_file, 1).metadata, joints=MPII.joints[::-1], oks_sigmas=(0.1,) * len(MPII))
    model = onnx.load(f32_file)
    onnx.helper.set_model_props(model, mine.to_properties())
    onnx.save(model, tmp_path / "mine.onnx")
    found = pnfs.load(tmp_path / "mine.onnx").skeleton
    assert (found.name, found.joints, found.oks_sigmas) == ("mpii", mine.joints, mine.oks_sigmas)


# --- 8-bit integers


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration(smooth(16, 0), smooth(16, 1), max_moved=1.0)


@pytest.fixture(scope="module")
def int8_file(f32_file, calibration) -> Path:
    path = shutil.copy(f32_file, f32_file.with_name("int8.onnx"))
    quantise(path, calibration)
    return path


def float_convolutions(path: Path) -> set[str]:
    """Names of the convolutions whose weights are float32 in the file."""
    graph = onnx.load(path).graph
    integers = {x for n in graph.node if n.op_type == "DequantizeLinear" for x in n.output}
    return {n.name for n in graph.node if n.op_type == "Conv" and n.input[1] not in integers}


@RUNTIMES
def test_most_convolutions_are_in_integers_with_a_scale_a_channel(f32_file, int8_file, runtime) -> None:
    graph, in_float = onnx.load(int8_file).graph, float_convolutions(int8_file)
    convolutions = [n.name for n in onnx.load(f32_file).graph.node if n.op_type == "Conv"]
    # The first and the last stay in float32.
    assert in_float >= {convolutions[0], convolutions[-1]}
    count = len(convolutions)
    assert 2 <= len(in_float) < count / 4
    weights = [t for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    # Convolutions may share one weight.
    assert len(in_float) < len(weights) <= count - len(in_float)
    scales = {t.name: t for t in graph.initializer}
    for weight in weights:
        (dequantised,) = [n for n in graph.node if n.input and n.input[0] == weight.name]
        assert list(scales[dequantised.input[1]].dims) == [weight.dims[0]]
    run, other = OnnxRuntime(f32_file, 1), runtime(int8_file, 1)
    exact, found = run(smooth(4, 2)), other(smooth(4, 2))
    assert np.corrcoef(exact.ravel(), found.ravel())[0, 1] > 0.95
    assert (run.precision, other.precision, np.array_equal(exact, found)) == ("f32", "int8", False)


def moved_between(first: Path, second: Path, calibration: Calibration) -> float:
    """Share of the peaks that lie more than a pixel away."""
    maps = [OnnxRuntime(p)(calibration.crops).reshape(len(calibration.crops), 16, -1) for p in (first, second)]
    places = [np.stack(np.divmod(x.argmax(-1), SIZE[1] // 4)) for x in maps]
    # Each joint counts by its score in the second file.
    return float(np.average(abs(places[0] - places[1]).max(0) > 1, weights=maps[1].max(-1)))


def test_layers_stay_in_float_until_few_joints_move(
    network, f32_file, int8_file, calibration, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(onnx_model, "GROUPS", 4)
    loose = moved_between(int8_file, f32_file, calibration)
    assert loose > 0, "this network tells nothing about the search"
    path, strict = tmp_path / "m.onnx", replace(calibration, max_moved=loose / 2)
    report = export_onnx(network, path, input_size=SIZE, int8=strict)
    assert report.metadata == OnnxRuntime(path, 1).metadata
    assert report.metadata.precision == "int8"
    held_out = moved_between(path, f32_file, replace(strict, crops=strict.held_out))
    assert report.moved == pytest.approx(held_out, rel=1e-4)
    assert held_out <= loose
    assert report.convolutions is not None
    total, in_float = report.convolutions
    # One that shares its weight with others is computed in float32 with that weight rounded.
    assert 0 <= in_float - len(float_convolutions(path)) < total / 8
    assert in_float > len(float_convolutions(int8_file))
    assert moved_between(path, f32_file, calibration) <= loose / 2


def test_a_file_that_moves_too_much_is_not_made_or_not_kept(
    network, f32_file, calibration, tmp_path: Path, monkeypatch
) -> None:
    path, strict = shutil.copy(f32_file, tmp_path / "m.onnx"), replace(calibration, max_moved=0.2)
    monkeypatch.setattr(onnx_model, "moved_share", lambda found, expected: 0.5)
    monkeypatch.setattr(onnx_model, "GROUPS", 2)
    with pytest.raises(ExportError, match=r"int8\.max_moved"):  # Whatever stays in float.
        quantise(path, replace(strict, crops=calibration.crops[:2]))
    assert path.read_bytes() == f32_file.read_bytes()
    monkeypatch.setattr(onnx_model, "quantise", lambda path, calibration: (1, 1))
    with pytest.raises(ExportError, match=r"m\.onnx: .*not kept.*int8\.crops"):
        export_onnx(network, path, input_size=SIZE, int8=strict)
    assert path.read_bytes() == f32_file.read_bytes()
    for count, max_moved in ((2, 0.0), (2, float("nan")), (2, 1.5), (0, 0.1)):
        with pytest.raises(ExportError, match="int8"):
            Calibration(smooth(2, 0)[:count], smooth(2, 0), max_moved)


# --- OpenVINO


def test_openvino_computes_in_float32_unless_told_otherwise(f32_file, int8_file, monkeypatch) -> None:
    run, crops = OpenVinoRuntime(f32_file, 1), smooth(4, 2)
    exact = run(crops)
    compiled = run._requests[4].get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == run.precision == "f32"
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        coarse = OpenVinoRuntime(f32_file, 1, precision="bf16")
        assert 1e-5 < np.abs(coarse(crops) - exact).max() < 0.05
        assert coarse.precision == "bf16"

    class Older(openvino.Core):
        def get_property(self, *names: str) -> object:
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "Core", Older)
    for file, precision, named in (
        (f32_file, "bf16", "precision=bf16: this processor"),
        (f32_file, "f16", "precision=f16"),
        (int8_file, "f32", r"precision=f32: .*int8\.onnx"),
    ):
        with pytest.raises(ExportError, match=named):
            OpenVinoRuntime(file, precision=precision)  # type: ignore[arg-type]


_RUN = """
import numpy as np
from pnfs.export.runtimes import OnnxRuntime, OpenVinoRuntime
for runtime in OpenVinoRuntime, OnnxRuntime:
    runtime(sys.argv[1], 1)(np.zeros((1, 64, 96, 3), np.uint8))
assert "openvino_telemetry" not in sys.modules
"""


def test_running_a_file_contacts_nobody(f32_file, tmp_path: Path) -> None:
    # In continuous integration OpenVINO sends nothing by itself.
    unset = ("CI", "TF_BUILD", "JENKINS_URL")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment |= {"SEEN": str(tmp_path / "seen"), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", WATCH + _RUN, str(f32_file)]
    subprocess.run(command, env=environment, check=True)
    assert not (tmp_path / "seen").exists()
    assert not list(tmp_path.rglob("*openvino*"))


_TWO_MODELS = """
import signal, subprocess, sys
import numpy as np
from pnfs.export.runtimes import OpenVinoRuntime
# A handler of Python's runs on the process's signal stack; data loaders set one for the end of a child.
signal.signal(signal.SIGCHLD, lambda *_: None)
models = [OpenVinoRuntime(sys.argv[1], 1) for _ in range(2)]
for model in models:
    model(np.zeros((1, 64, 96, 3), np.uint8))
while models:
    del models[0], model
    subprocess.run(["true"], check=True)
    model = None
"""


def test_models_that_end_in_any_order_leave_signals_alone(f32_file) -> None:
    subprocess.run([sys.executable, "-c", _TWO_MODELS, str(f32_file)], check=True)

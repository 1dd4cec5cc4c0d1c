"""Exported files against PyTorch, what they say about themselves, and what is refused."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pnfs.body import MPII
from pnfs.codec import Codec
from pnfs.codec.codec import decode
from pnfs.export import onnx_model
from pnfs.export.onnx_model import export_onnx
from pnfs.export.runtimes import ExportError, ModelMetadata, OnnxRuntime, OpenVinoRuntime
from pnfs.models import PoseFabricNetwork
from tiny import fabric_backbone, fabric_network

SIZE = (64, 96)
# Overlapping parts, so that the maps of two joints are sums.
PARTS = {"upper": MPII.joints[:9], "lower": MPII.joints[7:]}
RUNTIMES = pytest.mark.parametrize("runtime", [OnnxRuntime, OpenVinoRuntime])


def images(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).integers(0, 256, (batch, *SIZE, 3), np.uint8)


def build(**options) -> PoseFabricNetwork:
    torch.manual_seed(0)
    network = fabric_network(backbone=fabric_backbone(channels=2), channels=2, **options).eval()
    for parameter in network.architecture_parameters().values():
        torch.nn.init.normal_(parameter)
    network.calibrate(torch.randn(4, 3, *SIZE))
    return network


@pytest.fixture(scope="module")
def network() -> PoseFabricNetwork:
    return build(parts=PARTS)


@pytest.fixture(scope="module")
def maps_file(network: PoseFabricNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "maps.onnx"
    options = {"checkpoint": "abc", "codec": Codec(flip_shift=0), "padding": 1.5}
    report = export_onnx(network, path, input_size=SIZE, **options)
    assert set(report.differences) == {1, 3}
    assert max(report.differences.values()) < 1e-5
    return path


@pytest.fixture(scope="module")
def joints_file(network: PoseFabricNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "joints.onnx"
    export_onnx(network, path, input_size=SIZE, outputs="joints")
    return path


@torch.no_grad()
def expected_maps(network: PoseFabricNetwork, crops: np.ndarray) -> torch.Tensor:
    return network.heatmaps(torch.from_numpy(crops))


@RUNTIMES
@pytest.mark.parametrize("batch", [1, 5])
def test_maps_equal_those_of_the_network(network, maps_file, runtime, batch: int) -> None:
    crops, run = images(batch), runtime(maps_file, threads=1)
    found = run(crops)
    # Results stay when the runtime is called again.
    run(255 - crops)
    expected = expected_maps(network, crops).numpy()
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5)


@RUNTIMES
def test_the_file_says_all_that_a_runtime_needs(maps_file, runtime) -> None:
    assert runtime(maps_file, threads=1).metadata == ModelMetadata(
        input_size=SIZE,
        stride=4,
        skeleton="mpii",
        joints=MPII.joints,
        limbs=MPII.limbs,
        flip_pairs=MPII.flip_pairs,
        outputs="maps",
        flip_shift=0,
        padding=1.5,
        checkpoint="abc",
        parts=tuple(PARTS.items()),
    )
    graph = onnx.load(maps_file).graph
    assert not {node.op_type for node in graph.node} & {"BatchNormalization", "Softmax"}
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.fixture(scope="module")
def sharp() -> PoseFabricNetwork:
    """A network of scalar scores with high peaks; every other joint's are all below 0."""
    network = build(vector_dim=1)
    head = network.head
    with torch.no_grad():
        maps = expected_maps(network, images(1))
        head.weight *= 10 / (maps - maps.mean((2, 3), keepdim=True)).abs().max()
        head.bias.view(-1).sub_(expected_maps(network, images(1)).mean((0, 2, 3)))
        head.bias.view(-1)[::2] -= 30
    return network


def test_dark_in_udp_geometry_is_exported_for_a_network_of_scalar_scores(sharp, tmp_path: Path) -> None:
    # However it was trained: the way to locate joints is chosen at the export.
    path, crops, sigma = tmp_path / "joints.onnx", images(4), 1.0
    codec = Codec(decode_method="dark", sigma=sigma, unbiased=True)
    export_onnx(sharp, path, input_size=SIZE, outputs="joints", codec=codec)
    locations, expected_scores = decode(expected_maps(sharp, crops), "dark", sigma=sigma)
    below = expected_scores < 0
    assert 0 < below.sum() < below.numel()
    stride = (np.array(SIZE[::-1]) - 1) / (np.array(SIZE[::-1]) // 4 - 1)
    for runtime in (OnnxRuntime, OpenVinoRuntime):
        joints, scores = runtime(path, threads=1)(crops)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-3)
        # Noise has near ties, which rounding may decide either way.
        assert np.isclose(joints, locations.numpy() * stride, atol=1e-2).all(-1).mean() > 0.95
        assert (joints[below.numpy()] == 0).all()


def test_a_file_that_differs_is_refused_and_removed(
    sharp, network, maps_file, joints_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, content = tmp_path / "wrong.onnx", maps_file.read_bytes()
    # In place of the network's file, another network's.
    monkeypatch.setattr(onnx_model, "_write", lambda model, path, _: path.write_bytes(content))
    with pytest.raises(ExportError, match=r"wrong\.onnx: .* differ from PyTorch's by"):
        export_onnx(sharp, file, input_size=SIZE)
    # Right scores of joints that lie elsewhere.
    joints_of = onnx_model.joints_of

    def elsewhere(*arguments):
        joints, *rest = joints_of(*arguments)
        return joints + 3, *rest

    monkeypatch.setattr(onnx_model, "joints_of", elsewhere)
    with pytest.raises(ExportError, match=r"joints\.onnx: .* 100% of the joints lie elsewhere"):
        onnx_model.check_export(network, joints_file)
    for size in [(64, 65), (0, 64)]:
        with pytest.raises(ExportError, match="divide by 32"):
            export_onnx(sharp, file, input_size=size)
    assert not file.exists()


@RUNTIMES
def test_images_and_files_that_do_not_fit(
    maps_file, runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runtime(maps_file, threads=1)
    for wrong in (images(1).astype(np.float32), images(1)[0], images(1)[:, :32]):
        with pytest.raises(ExportError, match=r"uint8 \(B, 64, 96, 3\)"):
            run(wrong)
    (tmp_path / "broken.onnx").write_bytes(maps_file.read_bytes()[:1000])
    model = onnx.load(maps_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    for name, named in (
        ("absent", "no such file"),
        ("broken", r"broken\.onnx"),
        ("foreign", r"pnfs\.input_size is missing"),
    ):
        with pytest.raises(ExportError, match=named):
            runtime(tmp_path / f"{name}.onnx")
    with pytest.raises(ExportError, match="threads"):
        runtime(maps_file, threads=0)
    package = {OnnxRuntime: "onnxruntime", OpenVinoRuntime: "openvino"}[runtime]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=r"pip install 'pnfs\[(onnx|openvino)\]'"):
        runtime(maps_file)


def test_damaged_and_older_metadata() -> None:
    metadata = ModelMetadata((64, 64), 4, "mpii", ("a",), (), (), "maps")
    properties = metadata.to_properties()
    assert ModelMetadata.from_properties(properties, "f") == metadata
    # Files from before there was a choice are in float32.
    older = {k: v for k, v in properties.items() if k not in ("pnfs.precision", "pnfs.parts")}
    assert ModelMetadata.from_properties(older, "f") == metadata
    for name, value in (("stride", "{"), ("precision", '"int4"'), ("outputs", '"poses"')):
        with pytest.raises(ExportError, match=f"f: its property pnfs.{name}"):
            ModelMetadata.from_properties({**properties, f"pnfs.{name}": value}, "f")

"""What a CUDA device computes is what the CPU computes: maps, gradients, crops, a run and its score."""

import copy
from pathlib import Path

import pytest
import torch

from pnfs.codec import Codec
from pnfs.models.backbones import MobileNetV2
from pnfs.training.loss import HeatmapLoss
from tiny import fabric_network, randomise_statistics, table_one
from tiny_runs import call, record_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
GPU = torch.device("cuda")


@pytest.mark.parametrize("parts", [1, 3, 8])
@pytest.mark.parametrize("training", [True, False])
def test_maps_and_gradients(parts: int, training: bool) -> None:
    torch.manual_seed(parts)
    network = fabric_network(table_one("mpii", parts), backbone=MobileNetV2(weights="none"), channels=10)
    randomise_statistics(network)
    for parameter in network.architecture_parameters().values():
        torch.nn.init.normal_(parameter)
    network = network.to(memory_format=torch.channels_last).train(training)
    images = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    joints = {"joints_crop": 64 * torch.rand(4, 16, 2), "labelled": torch.rand(4, 16) > 0.2}
    found = {}
    for device in (torch.device("cpu"), GPU):
        there = copy.deepcopy(network).to(device)
        batch = {name: value.to(device) for name, value in joints.items()}
        with torch.backends.cudnn.flags(allow_tf32=False):
            maps = there(images.to(device))
            HeatmapLoss()(maps, batch, Codec(), there.map_joints).backward()
        gradients = torch.cat([p.grad.flatten() for p in there.parameters() if p.grad is not None])
        found[device.type] = maps.detach().cpu(), gradients.cpu()
    # With the statistics of few pixels, the CPU's own gradients are up to 2 % off those in double precision.
    for ours, expected, bound in zip(found["cuda"], found["cpu"], (2e-3, 0.05 if training else 2e-3), strict=True):
        assert (ours - expected).norm() < bound * expected.norm()


@pytest.mark.parametrize("strategy", ["synchronous", "first_order"])
def test_a_run_learns_and_is_scored_alike_on_the_cpu(strategy: str, tmp_path: Path) -> None:
    people = ["dataset=synthetic", "dataset.train=512", "dataset.val=64", "dataset.image_size=[96,96]"]
    size = ["input_size=[64,64]", "batch_size=16", "workers=0", "epochs=8", "schedule=one_cycle", "parts=p3"]
    speed = ["trainer=gpu", "trainer.benchmark=false", "acceleration.compile=null", "codec.sigma=1.0"]
    search = [f"strategy={strategy}", "backbone.weights=none", "schedule.peak=5.0e-3", "augmentation=none"]
    call("train", *people, *size, *speed, *search, f"run_root={tmp_path}")
    (run,) = tmp_path.glob("train/*")  # Beside the cache.
    trained = record_of(run)
    assert trained["device"] == torch.cuda.get_device_name()
    rows = (run / "metrics.csv").read_text().splitlines()
    assert len(rows) > 6
    call("evaluate", f"checkpoint={run}", "trainer=cpu", "workers=0", f"out={tmp_path / 'cpu'}")
    again = record_of(tmp_path / "cpu")
    # Training computes in bfloat16.
    assert again["score"] == pytest.approx(trained["score"], abs=3)
    assert again["score"] > 5

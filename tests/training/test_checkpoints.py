"""Checkpoints are data: whatever a stranger wrote into one, reading it runs nobody's code."""

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torchmetrics import MeanMetric

from pnfs.models.architecture import describe_architecture, to_json
from pnfs.training.checkpoints import (
    CONFIG_KEY,
    CheckpointError,
    KeepConfig,
    find_checkpoint,
    read_architecture,
    read_checkpoint,
    results_place,
)
from pnfs.training.module import PoseModule
from tiny import fabric_network

CONFIG: dict[str, Any] = {
    "model": {
        "_target_": "pnfs.models.PoseFabricNetwork",
        "backbone": {"_target_": "pnfs.models.backbones.MobileNetV2"},
        "fabrics": {
            "_target_": "pnfs.models.NeuralFabrics",
            "operations": {"skip": {"_target_": "pnfs.models.operations.Skip", "_partial_": True}},
            "rules": {"_target_": "pnfs.models.FabricRules", "gain": "one"},
        },
    },
    "dataset": {"_target_": "pnfs.data.synthetic.Synthetic", "train": 8},
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3},
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "some.ckpt"
    torch.save(content, path)
    return path


def with_config(folder: Path, config: Any) -> Path:
    return written(folder, {CONFIG_KEY: config, "state_dict": {}, "epoch": 0})


def changed(key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *path, last = key.split(".")
    holder = config
    for step in path:
        holder = holder[step]
    holder[last] = value
    return config


def test_configuration_and_architecture_go_into_every_checkpoint(tmp_path: Path) -> None:
    network, averaged = (fabric_network(skeleton="lsp", channels=2) for _ in range(2))
    module = PoseModule(network=network, metric=MeanMetric(), optimizer=torch.optim.Adam)
    for parameter in averaged.architecture_parameters().values():
        torch.nn.init.normal_(parameter)
    checkpoint = {"state_dict": torch.nn.ModuleDict({"network": averaged}).state_dict(), "epoch": 0}
    KeepConfig(CONFIG).on_save_checkpoint(L.Trainer(accelerator="cpu"), module, checkpoint)
    path, as_json = written(tmp_path, checkpoint), tmp_path / "architecture.json"
    assert read_checkpoint(path)[CONFIG_KEY] == CONFIG
    expected = to_json(describe_architecture(averaged))
    as_json.write_text(expected)
    assert to_json(read_architecture(path)) == to_json(read_architecture(as_json)) == expected


def test_absent_or_damaged_architecture_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "damaged.json").write_text('{"subnetworks": ')
    # Written before checkpoints held their architecture, or by somebody else.
    with_config(tmp_path, CONFIG)
    for name in ("absent.json", "damaged.json", "some.ckpt"):
        with pytest.raises(CheckpointError, match=name):
            read_architecture(tmp_path / name)


def refused(path: Path, *named: str, **options: Any) -> None:
    """One clear error that names the file and what is wrong in it."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, **options)
    assert all(word in str(caught.value) for word in (path.name, *named))


def foreign(folder: Path) -> dict[str, Any]:
    """A node that leaves a file behind if anybody calls its target."""
    return {"_target_": "numpy.savetxt", "fname": str(folder / "ran"), "X": [1.0]}


@pytest.mark.parametrize(
    "key",
    ["model", "model.backbone", "model.fabrics.operations.skip", "model.fabrics.rules", "model.extra",
     "dataset", "dataset.extra"],
)  # fmt: skip
def test_foreign_function_is_refused_wherever_it_hides_unless_trusted(tmp_path: Path, key) -> None:
    node = foreign(tmp_path)
    for hidden in (node, [[node]]) if key.endswith("extra") else (node,):
        path = with_config(tmp_path, changed(key, hidden))
        refused(path, "numpy.savetxt")
        assert key == "model" or read_checkpoint(path, trust=True)[CONFIG_KEY] is not None
        # Only what is built is looked at.
        assert "dataset" not in key or read_checkpoint(path, builds=("model",))
    assert not (tmp_path / "ran").exists()


def test_target_that_is_no_class_of_ours_is_refused(tmp_path: Path) -> None:
    no_classes: list[Any] = [
        "os.system", "", None, ["pnfs.models.PoseFabricNetwork"],
        # Foreign modules and functions under a name of ours, functions of ours.
        "pnfs.data.datasets.lsp.Path", "pnfs.models.network.torch.hub.load",
        "pnfs.training.module.keep_freed_memory",
        # Packages of ours that a checkpoint has no business in.
        "pnfs.commands.main.main", "pnfs.data", "pnfs.data.absent.Absent", "pnfs.dataset.Fake", "pnfs.models.",
        "builtins.exec", "hydra.utils.instantiate", "torch.load", "pnfs.training.checkpoints.read_checkpoint",
        "pnfs.data.synthetic.Synthetic.persons", "torch.optim.Optimizer.zero_grad", "ctypes.CDLL",
    ]  # fmt: skip
    for target in no_classes:
        refused(with_config(tmp_path, changed("model.backbone._target_", target)))


MOBILENET = "pnfs.models.backbones.MobileNetV2"


def test_class_of_ours_in_another_role_is_refused(tmp_path: Path) -> None:
    for key, target in (
        # Its weights could be downloaded, where nobody takes the wish for them away.
        ("model.fabrics.rules", MOBILENET),
        ("model.extra", MOBILENET),
        ("model.backbone", "pnfs.models.PoseFabricNetwork"),
        ("model", "pnfs.models.backbones.TimmBackbone"),
        ("dataset", "pnfs.data.module.PoseDataModule"),
        ("optimizer", "pnfs.training.schedules.StepSchedule"),
    ):
        refused(with_config(tmp_path, changed(key, {"_target_": target})), target, f" {key}")


def test_cells_of_a_derived_network_are_ours_whatever_a_part_is_called(tmp_path: Path) -> None:
    cell = {"_target_": "pnfs.models.wiring.KeptCell", "inputs": ["same"], "edges": [["skip"]]}
    config = changed("model.fabrics.kept", {"rules": {"layer4_scale4": cell}})
    assert read_checkpoint(with_config(tmp_path, config))[CONFIG_KEY] == config


def test_trusted_class_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    key = "model.fabrics.operations.skip"
    for target in ("absent_module.Gate", "fractions.Absent", "os.name", "Gate", 3):
        refused(with_config(tmp_path, changed(f"{key}._target_", target)), str(target), key, trust=True)


def test_interpolation_is_refused(tmp_path: Path) -> None:
    # A configuration is resolved before it is kept; what is left to resolve can hide a target.
    text = "${oc.create:{_target_:numpy.savetxt,fname:ran,X:[1]}}"
    for trust in (False, True):
        refused(with_config(tmp_path, changed("dataset.extra", text)), trust=trust)


def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path: Path) -> None:
    for content in ({"state_dict": {}}, [1, 2], torch.zeros(3)):
        refused(written(tmp_path, content), "not a checkpoint written by")
    for config in ("text", None, [], {}, {"model": {}}, {"model": 3}):
        refused(with_config(tmp_path, config))
    older = copy.deepcopy(CONFIG)
    older["model"] |= older["model"].pop("fabrics") | {"_target_": older["model"]["_target_"]}
    refused(with_config(tmp_path, older), "earlier version", trust=True)


def test_best_checkpoint_of_a_run_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    best, last = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    last.parent.mkdir()
    for absent, named in ((tmp_path, "best.ckpt or last.ckpt"), (tmp_path / "absent.ckpt", "absent")):
        with pytest.raises(CheckpointError, match=named):
            find_checkpoint(absent)
    last.touch()
    assert find_checkpoint(tmp_path) == last
    assert [str(last.parent) in line and "last.ckpt" in line for line in caplog.messages] == [True]
    best.touch()
    for asked, found in ((str(tmp_path), best), (best.parent, best), (last, last)):
        assert find_checkpoint(asked) == found
    assert len(caplog.messages) == 1
    for path, name in ((best, "x"), (last, "x_last"), (tmp_path / "a.1.ckpt", "x_a_1"), (tmp_path / "a", "x_a")):
        assert results_place(path, "", "x") == tmp_path / name

"""Files of people who mean harm: none runs code, each is refused in a sentence that names it."""

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from conftest import FEW, Tally, only, refused
from pnfs.data.synthetic import Synthetic
from train_server import TrainServer
from written_datasets import write_mpii


class Harm:
    """Writes a file when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


def pickles(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Files that run code where they are unpickled."""
    harms = [Harm(exec, f"open({str(marker)!r}, 'w')"), Harm(open, str(marker), "w")]
    harms += [Harm(shutil.copy, __file__, str(marker)), Harm(np.save, f"{marker}.npy", np.zeros(1))]
    for number, harm in enumerate(harms):
        for protocol in (0, 2, 4):
            yield f"pickle {number} {protocol}", pickle.dumps(harm, protocol)
        for name, content in {"alone": harm, "in state_dict": {"state_dict": {"a": harm}, "epoch": 1}}.items():
            file = io.BytesIO()
            torch.save(content, file)
            yield f"torch {number} {name}", file.getvalue()
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=False)
            yield f"old torch {number} {name}", file.getvalue()
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps(content))
                archive.writestr("archive/version", "3")
            yield f"zip {number} {name}", file.getvalue()
        array = np.empty(1, object)
        array[0] = harm
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        yield f"npy {number}", file.getvalue()


READ_BY = {
    "evaluate": ["checkpoint={}"], "predict": ["checkpoint={}", "input=person.png"], "derive": ["checkpoint={}"],
    "export": ["checkpoint={}"], "show": ["checkpoint={}"], "import": ["checkpoint={}", "input_size=[64,64]"],
    "train": [*FEW, "initial={}"],
}  # fmt: skip
WEIGHTS = [*FEW, "backbone=mobilenet_v2", "backbone.weights={}", "~backbone.fabrics"]


@pytest.mark.slow
def test_pickles_run_no_code(server: TrainServer, tmp_path: Path, tally: Tally) -> None:
    cv2.imwrite(str(tmp_path / "person.png"), np.full((64, 64, 3), 128, np.uint8))
    marker, tried = tmp_path / "harm", 0
    commands = list(READ_BY.items())
    for number, (name, content) in enumerate(pickles(marker)):
        path = tmp_path / f"hostile_{number}.ckpt"
        path.write_bytes(content)
        for command, arguments in (commands[number % len(commands)], commands[(number + 3) % len(commands)]):
            done = server.run(tmp_path, command, *(a.format(path.name) for a in arguments))
            refused(done, path.name)
            assert not list(tmp_path.glob("harm*")), (name, command)
            tried += 1
    tally(
        "hostile pickles in place of checkpoints and weights", tried, "the file, and that pickles are never loaded"
    )


TARGETS = [
    "os.system", "builtins.eval", "builtins.exec", "builtins.open", "subprocess.Popen", "subprocess.run",
    "shutil.rmtree", "pathlib.Path.touch", "hydra.utils.instantiate", "hydra.utils.get_method",
    "hydra._internal.utils._locate", "importlib.import_module", "torch.load", "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "pickle.loads", "pnfs.models.network.torch.load", "pnfs.data.module.Path", "pnfs.training.module.torch.load",
    "pnfs.models.backbones.torchvision.load_state_dict_from_url", "pnfs.commands.train.run", "ctypes.CDLL",
    "pnfs.training.checkpoints.read_checkpoint", "pnfs.data.synthetic.Synthetic.persons",
    "torch.optim.Optimizer.zero_grad",
]  # fmt: skip
PLACES = ["model", "model.backbone", "model.fabrics", "model.skeleton", "dataset"]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_configurations_build_no_other_class(
    server: TrainServer, runs: dict[str, Path], tmp_path: Path, tally: Tally, place: str
) -> None:
    cv2.imwrite(str(tmp_path / "person.png"), np.full((64, 64, 3), 128, np.uint8))
    whole = only(runs["whole"]) / "checkpoints" / "best.ckpt"
    commands = [c for c in READ_BY.items() if c[0] not in ("import", "train", "show")]
    for number, target in enumerate(TARGETS):
        checkpoint = torch.load(whole, weights_only=True)
        node, *below = place.split(".")
        harm = {"_target_": target, "_args_": [f"touch {tmp_path / 'harm'}"]}
        if below:
            checkpoint["pnfs_config"][node][below[0]] = harm
        else:
            checkpoint["pnfs_config"][node] = harm
        path = tmp_path / f"hostile_{number}.ckpt"
        torch.save(checkpoint, path)
        command, arguments = commands[number % len(commands)]
        log = tmp_path / "connections.txt"
        done = server.run(tmp_path, command, *(a.format(path.name) for a in arguments), blocked=log)
        if done.returncode:  # Prediction builds no dataset.
            refused(done, path.name)
        else:
            assert (place, command) in {("dataset", c) for c in ("predict", "export", "derive")}
        assert not (tmp_path / "harm").exists(), target
        assert not log.exists(), target
    tally(
        "hostile configurations in checkpoints", len(TARGETS), "the file, the key, and what trust=true would run"
    )


def test_path_outside_of_the_dataset_is_refused(server: TrainServer, tmp_path: Path, tally: Tally) -> None:
    drawn = Synthetic("mpii", train=3, val=3, image_size=(48, 48))
    write_mpii({split: drawn.persons(split) for split in ("train", "val")}, tmp_path / "mpii")
    annotations = tmp_path / "mpii" / "annot" / "train.json"
    content = json.loads(annotations.read_text())
    for text in ("../../secret.png", "/etc/hostname", "a/../../../b.png", "\u0000.png"):
        annotations.write_text(json.dumps([content[0] | {"image": text}, *content[1:]]))
        done = server.run(tmp_path, "data", "dataset=mpii", f"dataset.root={tmp_path / 'mpii'}")
        said = done.stdout + done.stderr
        assert done.returncode == 1
        assert "image" in said
        assert "Traceback" not in said
    tally("paths that lead out of a dataset", 4, "the annotation file and the path")

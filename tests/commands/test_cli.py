"""Command lines: file names, help, and mistakes, of which one sentence tells file or key, and what to do."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

import pnfs
from pnfs.commands import launch
from pnfs.commands.configuration import UsageError, packaged_folder
from pnfs.commands.launch import as_overrides, with_globs_expanded
from train_server import TrainServer

CONF = packaged_folder("conf")


NAMES = ("my photo (1).jpg", "照片.jpg", "a,b.jpg", 'it\'s "x".jpg', "a=b#1.jpg", "x.jpg")


def test_names_of_files_are_what_they_seem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        Path(name).touch()
        for value in (name, str(tmp_path / name)):
            (argument,) = as_overrides("show", [f"out={value}"])
            override = OverridesParser.create().parse_override(argument)
            assert (override.key_or_group, override.value()) == ("out", value)
    same = ["-m", "--cfg", "job", "seed=0,1", "model=pnfs", "~trainer.x", "+a.b=[1,2]", "x='a b'"]
    assert as_overrides("train", same) == same
    # Files of `pnfs predict` need no key.
    option = ["--config-dir", str(tmp_path)]
    assert as_overrides("predict", [*option, "x.jpg"]) == [*option, 'input="x.jpg"']
    assert as_overrides("predict", ["x.jpg", NAMES[0]]) == ['input=["x.jpg","my photo (1).jpg"]']
    with pytest.raises(UsageError, match=r"c\.jpg"):
        as_overrides("predict", ["c.jpg"])
    long = f"input=[{','.join(['x.jpg'] * 900)}]"  # Longer than a file's name can be.
    assert as_overrides("predict", [long]) == [long]


def test_globs_reach_into_folders(tmp_path: Path) -> None:
    (tmp_path / "my rows/experiment/mine").mkdir(parents=True)
    (tmp_path / "my rows/experiment/mine/a.yaml").touch()
    own = ["--config-dir", str(tmp_path / "my rows")]
    assert with_globs_expanded([*own, "experiment=glob(mine/*)"]) == [*own, "experiment=mine/a"]
    for given, expanded in (
        ("experiment=glob(table3/*)", "experiment=table3/p1,table3/p3,table3/p5,table3/p8"),
        ("experiment=glob([table3/p[13],figure7*/coco])", "experiment=table3/p1,table3/p3,figure7_8/coco"),
        *((same, same) for same in ("experiment=glob(lspet*)", "experiment=demo", "parts=glob(*)")),
    ):
        assert with_globs_expanded(["-m", given]) == ["-m", expanded]
    with pytest.raises(UsageError, match=r"table9.*table7"):
        with_globs_expanded(["experiment=glob(table9/*)"])


def test_version_and_help(server: TrainServer, tmp_path: Path) -> None:
    assert server.run(tmp_path, "--version").stdout == f"pnfs {pnfs.__version__}\n"
    done = server.run(tmp_path, "train", "--help")
    assert done.returncode == 0
    listed = dict(re.findall(r"^(\w+): ([\w, ]+)$", done.stdout, re.MULTILINE))
    defaults = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    entries = [group for entry in defaults if isinstance(entry, dict) for group in entry]
    groups = [group for group in entries if not group.startswith(("override ", "optional "))]
    assert len(groups) > 10
    for group in groups:
        choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        assert listed[group].split(", ") == choices


MISTAKES = [
    ("train epochs=-1", "epochs"), ("train epochs=two", "epochs"),
    ("train trainer.max_epochs=0", "trainer.max_epochs"), ("train input_size=64", "input_size"),
    ("train input_size=[100,100]", "input_size"), ("train codec.decode_method=drak", "codec.decode_method"),
    ("train batch_size=0", "batch_size"), ("train optimizer.lr=text", "optimizer.lr"),
    ("train strategy.lr_factor=text", "strategy.lr_factor"), ("train data.augment=divice", "data.augment"),
    ("train data.augment={a:1}", "data.augment"), ("train data.resident={a:1}", "data.resident"),
    ("train model.fabrics.nodes=one", "model.fabrics.nodes"), ("train trainer=gpu", "trainer.accelerator"),
    ("train epochz=3", "epochs"), ("train +epochz=3", "epochs"),
    ("train +trainer.max_epoch=3", "trainer.max_epochs"),
    ("train +model.fabrics.chanels=3", "model.fabrics.channels"), ("train +codec.sigmas=3", "codec.sigma"),
    ("train +callbacks.best.moniter=x", "callbacks.best.monitor"), ("cost skeleton=panoptic", "parts.panoptic"),
    ("cost backbone.weights=none +operations.mine={_target_:absent.Gate}", "PYTHONPATH"),
    ("cost backbone.weights=imagenet", "backbone.weights=none"),
    ("evaluate checkpoint=no/such.ckpt", "no/such.ckpt"), ("evaluate decode_method=best", "decode_method=best"),
    ("evaluate flip_shift=2", "flip_shift=2"), ("predict input=x nms_threshold=1.5", "nms_threshold=1.5"),
    ("predict input=x box_threshold=much", "box_threshold=much"), ("predict input=x runtime=tpu", "runtime=tpu"),
    ("export checkpoint=x int8.crops=0", "int8.crops=0"),
    ("export checkpoint=x int8.max_moved=2", "int8.max_moved=2"), ("show", "checkpoint"),
    ("predict input=x box_threshold=null", "box_threshold"),
    ("predict input=x score_threshold=null", "score_threshold"),
    ("predict input=x tracking.iou=null", "tracking.iou"),
    ("derive checkpoint=x alpha_threshold=null", "alpha_threshold"),
    ("data dataset=synthetic splits=val", "splits"), ("data dataset=synthetic splits=[]", "splits"),
    ("train callbacks=[default,pictures] callbacks.pictures.every=0", "callbacks.pictures.every"),
    ("train schedule=steps schedule.milestones=[90]", "schedule.milestones"),
    ("train profile=smoke optimizer.lr=0.1", "schedule.peak"),
    ("train +trainer.sync_batchnorm=true", "trainer.sync_batchnorm"),
    ("train debug=overfit strategy=first_order", "trainer.overfit_batches"),
    ("cost backbone=fabric_1 backbone.fabrics.part_names=[head]", "part_names"),
    ("train strategy=first_order strategy.warmup_epochs=9 epochs=9", "strategy.warmup_epochs=9"),
    ("train trainer.devices='0,1'", "trainer.devices=0,1"),
    ("train trainer.precision=bf16-true", "trainer.precision"),
    ("train ~callbacks.strategy", "callbacks.strategy"), ("train ~callbacks", "callbacks=[default"),
    ("train callbacks=early_stopping", "callbacks=[default"),
    ("train variant=posenfs model.overlap=mean", "model.overlap"),
    ("train ~optimizer", "optimizer"), ("train ~schedule", "schedule"), ("train seed=99999999999999", "seed"),
    ("train demo", "demo"), ("show no_such_run", "no_such_run"), ("train trainer.devices=0", "trainer.devices=0"),
    ("cost backbone.weights=none model.fabrics.last_layers=7", "last_layers"),
    ("train callbacks=[default,ema] callbacks.ema.decay=0", "callbacks.ema.decay"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "key"), MISTAKES)
def test_mistake_is_one_sentence_that_names_the_key(
    server: TrainServer, tmp_path: Path, given: str, key: str
) -> None:
    if "trainer=gpu" in given and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command, *overrides = given.split()
    done = server.run(tmp_path, command, *overrides, blocked=tmp_path / "connections")
    assert done.returncode == 1
    assert key in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"pnfs {command}: ")


def test_mistakes_of_more_than_a_line(server: TrainServer, tmp_path: Path) -> None:
    done = server.run(tmp_path, "trian")
    assert (done.returncode, "'trian'; did you mean 'train'?" in done.stderr) == (2, True)
    assert "p8" in server.run(tmp_path, "train", "parts=p4").stderr
    # Where the data were looked for, and where to get them.
    said = server.run(tmp_path, "train", "dataset=mpii", "dataset.root=no/such/folder").stderr
    assert said.startswith("pnfs train: MPII: ")
    assert ("no/such/folder" in said, str(tmp_path) in said, said.count("annot/train.json")) == (True, True, 1)


def test_a_missing_package_and_a_place_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    error = ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")
    assert "pnfs[tensorboard]" in str(launch.said(error))
    assert launch.said(ModuleNotFoundError("no torch")) is None
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:  # noqa: PT011
        (tmp_path / "file" / "below").mkdir()
    assert str(tmp_path / "file") in str(launch.said(caught.value))
    assert launch.said(OSError(28, "No space left on device")) is not None

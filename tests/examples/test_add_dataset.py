"""A dataset: persons, a metric, and a file of the group `dataset`."""

PYTHON = '''
import numpy as np
from pnfs.body import MPII
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.persons import Persons
from pnfs.evaluation import PCK

class Mine(PoseDataset):
    """root/train.npy, val.npy: joints (N, 16, 2) in pixels; the person of row 0 stands in train/0.png."""
    name, skeleton, required = "mine", MPII, ("train.npy", "val.npy")

    def load(self, split):
        joints = np.load(self.root / f"{split}.npy")
        low, high, rows = joints.min(1), joints.max(1), np.arange(len(joints))
        images = self.image_files(split, split, [f"{row}.png" for row in rows])
        return Persons(
            f"mine {split}", self.skeleton, images, ids=rows.astype(str), image_index=rows, joints=joints,
            visibility=np.full(joints.shape[:2], 2, np.int8), center=(low + high) / 2,
            box_size=self.padding * (high - low), reference_length=(high - low).max(1),
        )

    def metric(self, split):
        return PCK(joints=self.skeleton.joints, groups=self.skeleton.groups, thresholds=[0.1])
'''
YAML = "{_target_: my_dataset.Mine, root: data, skeleton: mpii}"
SMALL = ("input_size=[64,64]", "batch_size=8", "epochs=1", "workers=0", "trainer=cpu")


def test_dataset(write, people, pnfs):
    write("my_dataset.py", PYTHON)
    write("conf/dataset/mine.yaml", YAML)
    run = pnfs("train", "dataset=mine", "backbone.weights=none", "model.fabrics.channels=2", *SMALL)
    pnfs("evaluate", f"checkpoint={run}", "out=scores", "trust=true", "trainer=cpu", "workers=0")
    assert len(pnfs.scores(f"checkpoint={run}")) == 16

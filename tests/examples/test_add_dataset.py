"""A dataset: persons, a metric, and a file of the group `dataset`."""

PYTHON = '''
from pathlib import Path
import numpy as np
from pnfs.body import skeleton_by_name
from pnfs.data.persons import ImageFiles, Persons
from pnfs.evaluation import PCK

class Mine:
    """root/train.npy, val.npy: joints (N, 16, 2) in pixels; the person of row 0 stands in train/0.png."""
    skeleton = skeleton_by_name("mpii")

    def __init__(self, root):
        self.root = Path(root)

    def persons(self, split):
        joints = np.load(self.root / f"{split}.npy")
        low, high, rows = joints.min(1), joints.max(1), np.arange(len(joints))
        images = ImageFiles(self.root, [f"{split}/{row}.png" for row in rows])
        return Persons(
            f"mine {split}", self.skeleton, images, ids=rows.astype(str), image_index=rows, joints=joints,
            visibility=np.full(joints.shape[:2], 2, np.int8), center=(low + high) / 2,
            box_size=1.25 * (high - low), reference_length=(high - low).max(1),
        )

    def metric(self, split):
        return PCK(joints=self.skeleton.joints, groups=self.skeleton.groups, thresholds=[0.1])
'''
YAML = "{_target_: my_dataset.Mine, root: data}"
SMALL = ("input_size=[64,64]", "batch_size=8", "epochs=1", "workers=0", "trainer=cpu")


def test_dataset(write, people, pnfs):
    write("my_dataset.py", PYTHON)
    write("conf/dataset/mine.yaml", YAML)
    run = pnfs("train", "dataset=mine", "backbone.weights=none", "model.fabrics.channels=2", *SMALL)
    pnfs("evaluate", f"checkpoint={run}", "out=scores", "trust=true", "trainer=cpu", "workers=0")
    assert len(pnfs.scores(f"checkpoint={run}")) == 16

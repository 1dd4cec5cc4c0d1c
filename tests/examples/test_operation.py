"""Adding a candidate operation: a class, and a line in a file of the group `operations`."""

import cv2
import numpy as np

PYTHON = '''
import torch.nn.functional as F
from pnfs.models.layers import PartBatchNorm2d, PartConv2d
from pnfs.models.operations import Operation

class Pointwise(Operation):
    """1x1 convolution, BN, ReLU."""

    def __init__(self, parts, channels):
        super().__init__()
        self.conv = PartConv2d(parts, channels, channels, 1)
        self.norm = PartBatchNorm2d(parts, channels, affine=False)

    def forward(self, x, weight):
        return F.relu(self.norm(self.conv(x), weight))
'''
YAML = """
defaults: [subnetwork, _self_]
pointwise: {_target_: my_operation.Pointwise, _partial_: true}
"""


def test_operation(tmp_path, write, pnfs):
    write("my_operation.py", PYTHON)
    write("conf/operations/mine.yaml", YAML)
    pnfs("train", "profile=smoke", "operations=mine", "parts=p3")
    (run,) = (tmp_path / "runs/smoke").iterdir()
    pnfs("evaluate", f"checkpoint={run}", "out=scores", "trust=true")
    pnfs("derive", f"checkpoint={run}", "method=prune", "alpha_threshold=0.2", "out=small", "trust=true")
    pnfs("show", f"checkpoint={run}", "format=svg", "out=pictures", "trust=true")
    pnfs("export", f"checkpoint={run}", "out=model.onnx", "trust=true")
    cv2.imwrite("person.png", np.full((96, 96, 3), 128, np.uint8))
    pnfs("predict", f"checkpoint={run}", "input=person.png", "out=poses", "trust=true")

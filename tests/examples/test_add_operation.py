"""A candidate operation: a class, and a line in a file of the group `operations`."""

PYTHON = '''
from torch import nn
from pnfs.models.layers import PartBatchNorm2d, PartConv2d
from pnfs.models.operations import Operation

class Pointwise(Operation):
    """1x1 convolution, BN, ReLU."""

    def __init__(self, parts, channels):
        super().__init__()
        conv = PartConv2d(parts, channels, channels, 1)
        norm = PartBatchNorm2d(parts, channels, affine=False)
        self.layers = nn.Sequential(conv, norm, nn.ReLU())
'''
YAML = """
defaults: [subnetwork, _self_]
pointwise: {_target_: my_operation.Pointwise, _partial_: true}
"""


def test_operation(tmp_path, write, pnfs):
    write("my_operation.py", PYTHON)
    write("conf/operations/mine.yaml", YAML)
    small = ("model.fabrics.channels=2", "model.vector_dim=1")
    run = pnfs("train", "profile=smoke", *small, "operations=mine")
    checkpoint = (f"checkpoint={run}", "trust=true")
    pnfs("show", *checkpoint, "format=svg", "out=pictures")
    assert "/0-1/pointwise" in (tmp_path / "pictures/architecture.svg").read_text()
    pnfs("evaluate", *checkpoint, "out=scores")
    pnfs("derive", *checkpoint, "method=argmax", "out=small")
    pnfs("export", *checkpoint, "out=model.onnx")
    assert pnfs.predicts_alike("model.onnx", *checkpoint)
    assert len(pnfs.scores("checkpoint=small", "trust=true")) == 16

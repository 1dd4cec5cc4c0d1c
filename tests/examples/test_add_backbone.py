"""A backbone: maps at 1/4, 1/8, 1/16 and 1/32, and a file of the group `backbone`."""

PYTHON = '''
from torch import nn
from pnfs.models.backbones import Backbone

class Plain(Backbone):
    """Five 3x3 convolutions at stride 2, each with BN and ReLU; the maps of the last four."""

    def __init__(self, width=8):
        super().__init__()
        self.channels = tuple(width * scale for scale in (1, 2, 4, 8))
        widths = zip((3, width, *self.channels), (width, *self.channels))
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in widths
        )

    def forward(self, images):
        maps = [self.steps[0](images)]
        for step in self.steps[1:]:
            maps.append(step(maps[-1]))
        return maps[1:]
'''
YAML = "{_target_: my_backbone.Plain, width: 8}"


def test_backbone(write, pnfs):
    write("my_backbone.py", PYTHON)
    write("conf/backbone/plain.yaml", YAML)
    run = pnfs("train", "profile=smoke", "model.fabrics.channels=2", "backbone=plain", "~backbone.weights")
    checkpoint = (f"checkpoint={run}", "trust=true")
    pnfs("evaluate", *checkpoint, "out=scores")
    pnfs("derive", *checkpoint, "out=small")
    pnfs("export", *checkpoint, "out=model.onnx")
    assert pnfs.predicts_alike("model.onnx", *checkpoint)

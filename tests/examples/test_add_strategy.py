"""A search strategy: a callback that owns alpha and beta, and a file of the group `strategy`."""

import json

import numpy as np

PYTHON = '''
import torch
from pnfs.search.strategy import SearchStrategy, architecture_of, freeze_architecture

class Dirichlet(SearchStrategy):
    """Mixing weights drawn from the whole simplex with equal density, and kept."""

    def __init__(self, seed=0):
        super().__init__()
        self.seed = seed

    def prepare(self, module, trainer):
        generator = torch.Generator().manual_seed(self.seed)
        for logits in architecture_of(module):
            draw = torch.empty(logits.shape).exponential_(generator=generator)
            logits.data.copy_(draw.log())  # Their softmax is draw / draw.sum().
        freeze_architecture(module)
'''
YAML = "{_target_: my_strategy.Dirichlet, seed: '${seed}'}"


def test_strategy(write, pnfs):
    write("my_strategy.py", PYTHON)
    write("conf/strategy/dirichlet.yaml", YAML)
    run = pnfs("train", "profile=smoke", "model.fabrics.channels=2", "strategy=dirichlet")
    found = json.loads((run / "architecture.json").read_text())["subnetworks"]["parts"]
    assert np.ptp(found["head"]["alpha"]) > 0
    # No command that reads a checkpoint builds its strategy: nothing has to be trusted.
    pnfs("evaluate", f"checkpoint={run}", "out=scores")
    pnfs("derive", f"checkpoint={run}", "method=prune", "out=small")
    pnfs("export", f"checkpoint={run}", "out=model.onnx")
    assert pnfs.predicts_alike("model.onnx", f"checkpoint={run}")

"""A metric: torchmetrics' class, and a dataset whose `metric` gives it."""

PYTHON = '''
import torch
from torchmetrics import Metric
from pnfs.data.synthetic import Synthetic

class WholePersons(Metric):
    """Percentage of persons with all labelled joints within half a head size."""

    def __init__(self):
        super().__init__()
        for name in ("right", "total"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, *, predicted, joints_image, labelled, reference_length, **_):
        error = (predicted - joints_image).norm(dim=-1) / reference_length[:, None]
        self.right += ((error <= 0.5) | ~labelled.bool()).all(1).sum()
        self.total += len(error)

    def compute(self):
        return {"whole persons": 100 * self.right / self.total}

class ByPerson(Synthetic):
    def metric(self, split):
        return WholePersons()
'''
YAML = "defaults: [synthetic, _self_]\n_target_: my_metric.ByPerson\n"


def test_metric(write, pnfs):
    write("my_metric.py", PYTHON)
    write("conf/dataset/by_person.yaml", YAML)
    run = pnfs("train", "profile=smoke", "model.channels=2", "dataset=by_person")
    assert '"whole persons"' in (run / "result.json").read_text()
    pnfs("evaluate", f"checkpoint={run}", "out=scores", "trust=true")
    pnfs("derive", f"checkpoint={run}", "out=small", "trust=true")
    pnfs("export", f"checkpoint={run}", "out=model.onnx")  # Needs no dataset, and so no trust.
    assert pnfs.predicts_alike("model.onnx", f"checkpoint={run}")

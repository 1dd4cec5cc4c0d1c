"""A metric: a `PersonMetric`, and a dataset whose `metric` gives it."""

PYTHON = '''
import numpy as np
from pnfs.data.synthetic import Synthetic
from pnfs.evaluation import PersonMetric

class WholePersons(PersonMetric):
    """Percentage of persons with all labelled joints within half a head size."""

    columns = ("predicted", "joints_image", "labelled", "reference_length")

    def score(self, persons):
        error = np.linalg.norm(persons["predicted"] - persons["joints_image"], axis=-1)
        right = error <= 0.5 * persons["reference_length"][:, None]
        return {"whole persons": 100 * (right | (persons["labelled"] == 0)).all(1).mean()}

class ByPerson(Synthetic):
    def metric(self, split):
        return WholePersons(len(self.skeleton))
'''
YAML = "defaults: [synthetic, _self_]\n_target_: my_metric.ByPerson\n"


def test_metric(write, pnfs):
    write("my_metric.py", PYTHON)
    write("conf/dataset/by_person.yaml", YAML)
    run = pnfs("train", "profile=smoke", "model.fabrics.channels=2", "dataset=by_person")
    assert '"whole persons"' in (run / "result.json").read_text()
    pnfs("evaluate", f"checkpoint={run}", "out=scores", "trust=true")
    pnfs("derive", f"checkpoint={run}", "out=small", "trust=true")
    # Predictions need no dataset, and so no trust.
    pnfs("export", f"checkpoint={run}", "out=model.onnx")
    assert pnfs.predicts_alike("model.onnx", f"checkpoint={run}")

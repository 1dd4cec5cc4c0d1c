"""A part mode: a file of the group `parts`, without any class. A joint may belong to several parts."""

import json

YAML = """
mpii:
  upper: [head_top, upper_neck, thorax, left_shoulder, right_shoulder, left_elbow, right_elbow,
          left_wrist, right_wrist]
  lower: [thorax, pelvis, left_hip, right_hip, left_knee, right_knee, left_ankle, right_ankle]
"""


def test_parts(write, pnfs):
    write("conf/parts/halves.yaml", YAML)
    run = pnfs("train", "profile=smoke", "model.fabrics.channels=2", "parts=halves")
    found = json.loads((run / "architecture.json").read_text())["subnetworks"]["parts"]
    assert list(found) == ["upper", "lower"]
    pnfs("evaluate", f"checkpoint={run}", "out=scores")
    pnfs("derive", f"checkpoint={run}", "method=prune", "out=small")
    pnfs("export", f"checkpoint={run}", "out=model.onnx")
    assert pnfs.predicts_alike("model.onnx", f"checkpoint={run}")

"""Copies finished runs of the study into `../<target>/runs/<profile>/<row>/<seed>/result.json`:
collect.py RUNS_FOLDER PROFILE [TARGET, study or study_long]

The row is told by what the run's configuration changes; a run that is of no row, or of a row at another scale than
the first record kept there, is named and left out. Paths of the machine become names.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

EXPERIMENTS = Path(__file__).parents[1]
PARTS = EXPERIMENTS.parent / "conf" / "parts"
SCALE = ("epochs", "input_size", "batch_size")


def row_of(config: dict[str, Any], rows: dict[str, str]) -> str | None:
    """The file in conf/experiment/<target> whose run this is."""
    model, strategy = config["model"] | config["model"].get("fabrics", {}), config["strategy"]
    groups = {path.stem: yaml.safe_load(path.read_text()).get("lsp") for path in sorted(PARTS.glob("*.yaml"))}
    parts = next((name for name, group in groups.items() if group == model.get("parts")), None)
    search, factor = strategy["_target_"].rsplit(".", 1)[-1], strategy.get("lr_factor", 1.0)
    names = {"Random": "random", "Frozen": "frozen", "GumbelSoftmax": "gumbel"}
    names |= {"FirstOrder": "first_order", "SecondOrder": "second_order"}
    changed = [] if parts == "p3" else [str(parts)]
    changed += [] if search == "Synchronous" else [names.get(search, search)]
    changed += [] if factor == 1.0 else [f"lr_{factor:g}"]
    changed += [] if model["vector_dim"] == 8 else [f"d{model['vector_dim']}"]
    changed += [] if model["rules"]["gain"] == "one" else ["posenfs"]
    changed += [] if model["channels"] == 10 else [f"C{model['channels']}"]
    changed += [] if model["nodes"] == 1 else [f"H{model['nodes']}"]
    name = {"": "p3", "p1 C18": "p1_wide"}.get(" ".join(changed), " ".join(changed))
    return name if name in rows else None


def without_paths(value: Any) -> Any:
    """The same data; paths of this machine are shortened to their last component."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def main(runs: Path, profile: str, target: str = "study") -> None:
    here = EXPERIMENTS / target
    rows = yaml.safe_load((here / "target.yaml").read_text())["rows"]
    kept = sorted(here.glob(f"runs/{profile}/*/*/result.json"))
    scale = [json.loads(kept[0].read_text())["config"][key] for key in SCALE] if kept else None
    for path in sorted(runs.glob("**/result.json")):
        record = json.loads(path.read_text())
        row = row_of(record["config"], rows)
        if row is None or (scale and [record["config"][key] for key in SCALE] != scale):
            print(f"left out: {path.parent}")
            continue
        # Earlier revisions did not name the dataset's skeleton, which tables group rows by.
        record["config"]["dataset"].setdefault("skeleton", "lsp")
        out = here / "runs" / profile / row / str(record["seed"]) / "result.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(without_paths(record), indent=1) + "\n")
        print(f"{row}, seed {record['seed']}: {record['score']:.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

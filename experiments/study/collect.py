"""Copies finished runs into `<target>/runs/<profile>/<row>/<seed>/result.json`, beside this folder:
collect.py RUNS_CSV RUN_ROOT

`RUNS_CSV` is `.../<target>/results/<profile>/runs.csv` as `pnfs tables` has written it from the runs below
`RUN_ROOT`, so that the rows are told as tables tell them. Paths of the machine become names.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import yaml

EXPERIMENTS = Path(__file__).parents[1]


def without_paths(value: Any) -> Any:
    """The same data; paths of this machine are shortened to their last component."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def main(runs: Path, root: Path) -> None:
    target, _, profile = runs.parts[-4:-1]
    here = EXPERIMENTS / target
    rows = {label: row for row, label in yaml.safe_load((here / "target.yaml").read_text())["rows"].items()}
    with runs.open(newline="") as lines:
        for line in csv.DictReader(lines):
            row, seed = rows[line["row"]], line["seed"]
            if line["state"] != "finished":
                print(f"{row}, seed {seed}: {line['state']}")
                continue
            record = json.loads((root / line["folder"] / "result.json").read_text())
            out = here / "runs" / profile / row / seed / "result.json"
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(without_paths(record), indent=1) + "\n")
            print(f"{row}, seed {seed}: {record['score']:.1f}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

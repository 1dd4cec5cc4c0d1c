"""The `pnfs` command: `pnfs COMMAND key=value ...`."""

import sys
from collections.abc import Mapping
from difflib import get_close_matches

import pnfs
from pnfs.commands.processes import outlive_reader

COMMANDS: Mapping[str, str] = {
    "train": "search and train a network, then evaluate it; resumes what was interrupted",
    "evaluate": "score a trained network, or a file of poses, on a dataset",
    "predict": "find the joints of persons in pictures and videos",
    "show": "draw a found architecture",
    "derive": "the equal, a pruned, or a discretised network of a found architecture",
    "import": "make a run of a public checkpoint: PoseNFS, HRNet, SimpleBaseline",
    "export": "write a trained network as an ONNX file",
    "data": "check a dataset, or cache its crops",
    "cost": "parameters and multiply-accumulates of a configuration",
    "tables": "the paper's tables and figures, ours beside the paper's",
    "runs": "list runs with state, score and cost; one HTML page about all",
}
_LISTED = "\n".join(f"  {name:<8}  {summary}" for name, summary in COMMANDS.items())
USAGE = f"""usage: pnfs COMMAND [key=value ...]

Pose Neural Fabrics Search. Commands:
{_LISTED}

`pnfs COMMAND --help` shows the choices of every configuration group; `pnfs --version` the version."""


def main() -> None:
    """Entry point of the console command."""
    outlive_reader()
    command, *rest = sys.argv[1:] or [""]
    if command in ("", "-h", "--help", "help"):
        print(USAGE)
        sys.exit(0 if command else 2)
    if command == "--version":
        print(f"pnfs {pnfs.__version__}")
        return
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        sys.stderr.write(f"pnfs: there is no command {command!r}{hint}\n\n{USAGE}\n")
        sys.exit(2)
    sys.argv = [f"pnfs {command}", *rest]
    # Not imported above: the list of commands comes at once, without waiting for Hydra.
    from pnfs.commands.launch import start

    start(command)

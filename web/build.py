"""Builds the page that runs an exported model in the browser: a folder for any static server.

python web/build.py model.onnx --out web/dist
"""

import argparse
import colorsys
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.colors import to_hex

from pnfs.body import Skeleton
from pnfs.export.runtimes import ExportError, ModelMetadata, OnnxRuntime
from pnfs.inference.predictor import JOINT_THRESHOLD
from pnfs.viz.poses import joint_sides
from pnfs.viz.style import COLOURS, SIDE_COLOURS, Side

HERE = Path(__file__).parent
PAGE = HERE / "page"
RUNTIME = HERE / "node_modules" / "onnxruntime-web"
RUNTIME_FILES = {"ort.wasm.bundle.min.mjs": "ort.js", "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm"}
"""File of the package -> its name beside the page; every server knows the type of a .js."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the page that runs an exported model in the browser.")
    parser.add_argument("model", type=Path, help="file that `pnfs export` wrote")
    parser.add_argument("--out", type=Path, default=HERE / "dist", help="folder to write")
    arguments = parser.parse_args()
    try:
        build(arguments.model, arguments.out)
    except (ExportError, OSError) as error:
        print(f"web/build.py: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.out}: serve it with python -m http.server --directory {arguments.out}")
    return 0


def build(model: Path, out: Path) -> None:
    """Writes the page, the runtime, the model and its description into a folder.

    Raises:
        ExportError: The model is no file that `pnfs export` wrote, or npm is missing or fails.
        OSError: The folder cannot be written.
    """
    description = describe(OnnxRuntime(model, threads=1).metadata, model)
    install_runtime()
    shutil.copytree(PAGE, out, dirs_exist_ok=True)
    for name, served_as in RUNTIME_FILES.items():
        shutil.copyfile(RUNTIME / "dist" / name, out / served_as)
    shutil.copyfile(model, out / "model.onnx")
    (out / "model.json").write_text(json.dumps(description, indent=1, allow_nan=False))


def describe(metadata: ModelMetadata, model: Path) -> dict[str, Any]:
    """What the page needs to know about a model: its geometry, joints by number, and their colours.

    Args:
        metadata: What the file says about itself.
        model: The file.
    """
    height, width = metadata.input_size
    map_size = (height // metadata.stride, width // metadata.stride)
    number = {joint: k for k, joint in enumerate(metadata.joints)}
    skeleton = Skeleton(metadata.skeleton, metadata.joints, metadata.flip_pairs, metadata.limbs, groups={})
    sides = joint_sides(skeleton)
    parts = metadata.parts
    members = [[number[joint] for joint in joints] for _, joints in parts]
    return {
        "name": model.name,
        "skeleton": metadata.skeleton,
        "precision": metadata.precision,
        "inputSize": [height, width],
        "mapSize": map_size,
        "stride": metadata.codec.stride(map_size),
        "unbiased": metadata.unbiased,
        "padding": metadata.padding,
        "decodeMethod": metadata.decode_method,
        "sigma": metadata.sigma,
        "flipShift": metadata.flip_shift,
        "flipPairs": [[number[a], number[b]] for a, b in metadata.flip_pairs],
        "scoreThreshold": JOINT_THRESHOLD,
        "joints": [
            {"name": joint, "side": side, "part": _first(members, k)}
            for k, (joint, side) in enumerate(zip(metadata.joints, sides, strict=True))
        ],
        "limbs": [
            {
                "joints": [number[a], number[b]],
                "side": limb_side({sides[number[a]], sides[number[b]]}),
                "part": _first(members, number[a], number[b]),
            }
            for a, b in metadata.limbs
        ],
        "parts": [
            {"name": name, "joints": joints, "colour": colour}
            for (name, _), joints, colour in zip(parts, members, part_colours(), strict=False)
        ],
        "sideColours": {side: f"#{bytes(rgb).hex()}" for side, rgb in SIDE_COLOURS.items()},
    }


def limb_side(ends: set[Side]) -> Side:
    """The side of a limb between joints of these sides, as `pnfs predict` draws it."""
    sides = ends - {"centre"}
    return sides.pop() if len(sides) == 1 else "centre"


def part_colours() -> "itertools.chain[str]":
    """One after another for the parts: the house's colours but black, then hues a golden section apart."""
    hues = ((0.15 + 0.618034 * n) % 1 for n in itertools.count())
    further = (to_hex(colorsys.hsv_to_rgb(hue, 0.6, 0.9)) for hue in hues)
    return itertools.chain((colour for colour in COLOURS if colour != "#000000"), further)


def install_runtime() -> None:
    """Installs onnxruntime-web at the locked version, once.

    Raises:
        ExportError: npm is missing or fails.
    """
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    installed = RUNTIME / "package.json"
    if installed.is_file() and json.loads(installed.read_text())["version"] == wanted:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError("npm is not installed; it fetches onnxruntime-web (it comes with Node.js)")
    # Scripts of packages are not needed, so they are not run.
    command = [npm, "ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"npm could not fetch onnxruntime-web {wanted}:\n{done.stderr.strip()}")


def _first(members: list[list[int]], *joints: int) -> int | None:
    """The first part that holds all of these joints."""
    return next((p for p, part in enumerate(members) if set(joints) <= set(part)), None)


if __name__ == "__main__":
    sys.exit(main())

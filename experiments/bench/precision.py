"""Latency of one network's exported files at batch 1, in turns, on one thread.

python experiments/bench/precision.py runs/train/1a2b3c4d/model.onnx runs/train/1a2b3c4d/model_int8.onnx
"""

import sys

import numpy as np

from pnfs.bench.timing import take_turns
from pnfs.export.metadata import ExportError
from pnfs.export.runtimes import OnnxRuntime, OpenVinoRuntime

f32, *in_int8 = sys.argv[1:]
runs = {"onnx f32": OnnxRuntime(f32, 1), "openvino f32": OpenVinoRuntime(f32, 1, precision="f32")}
try:
    runs["openvino bf16"] = OpenVinoRuntime(f32, 1, precision="bf16")
except ExportError as error:
    print(error)
for path in in_int8:
    runs[f"onnx int8 {path}"] = OnnxRuntime(path, 1)
    runs[f"openvino int8 {path}"] = OpenVinoRuntime(path, 1)
size = runs["onnx f32"].metadata.input_size
crop = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
seconds = take_turns(
    {name: (lambda run=run: run(crop)) for name, run in runs.items()}, rounds=101, repeats=3
)
for name, time in seconds.items():
    # Of the fastest round, in which the machine did least else.
    print(
        f"{name}: median {time.median * 1e3:.2f} ms, fastest {time.low * 1e3:.2f} ms, "
        f"{seconds['onnx f32'].low / time.low:.2f} times as fast as onnx f32"
    )

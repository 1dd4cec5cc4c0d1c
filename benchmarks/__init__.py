"""Measurements: alternatives timed in turns, in one run, as ratios. `python -m benchmarks --help`."""

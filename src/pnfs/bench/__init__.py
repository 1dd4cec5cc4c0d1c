"""Measurements: ratios between alternatives timed in one run, beside what the machine can do."""

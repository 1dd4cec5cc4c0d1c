"""Pose Neural Fabrics Search: part-aware neural fabrics for 2D human pose estimation."""

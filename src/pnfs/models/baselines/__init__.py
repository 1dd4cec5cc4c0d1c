"""Hand-designed pose networks to compare with: SimpleBaseline and HRNet."""

from pnfs.models.baselines.hrnet import HRNetPose
from pnfs.models.baselines.simple_baseline import SimpleBaseline

__all__ = ["HRNetPose", "SimpleBaseline"]

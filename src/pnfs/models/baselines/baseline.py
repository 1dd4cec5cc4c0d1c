"""What the baselines share: one part that holds all joints, one head."""

from pnfs.body import PartMode, skeleton_by_name
from pnfs.models.head import VectorHead
from pnfs.models.network import ChannelOrder, PoseNetwork

WHOLE_BODY = "whole_body"
"""The one part of a baseline."""


class Baseline(PoseNetwork):
    """A feature map at 1/4 and a 1x1 convolution to each joint's score or vector.

    Args:
        skeleton: Name of the skeleton whose joints are predicted.
        channels: Channels of the feature map.
        vector_dim: d; 1 is the ordinary scalar score map, as published, larger ones are Table VI's
            "+ vector".
        channel_order: Order of the input's colours; see `PoseNetwork`.
    """

    def __init__(
        self, skeleton: str, channels: int, vector_dim: int, channel_order: ChannelOrder = "rgb"
    ) -> None:
        joints = skeleton_by_name(skeleton)
        parts = PartMode(joints, {WHOLE_BODY: joints.joints})
        super().__init__(parts, channel_order=channel_order)
        # The head's ReLU changes nothing: the features have been rectified.
        self.head = VectorHead(channels, self.parts.joint_counts, vector_dim)

"""What the baselines share: one part that holds all joints, one head."""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from pnfs.body import PartMode, skeleton_by_name
from pnfs.models.network import ChannelOrder, PoseNetwork
from pnfs.models.vectors import VectorHead

WHOLE_BODY = "whole_body"
"""The one part of a baseline."""


class Baseline(PoseNetwork):
    """A feature map at 1/4 and a 1x1 convolution to each joint's score or vector.

    Args:
        skeleton: Name of the skeleton whose joints are predicted.
        channels: Channels of the feature map.
        vector_dim: d; 1 is the ordinary scalar score map, as published, larger ones are Table VI's
            "+ vector".
        channel_order: Of the input's colours; see `PoseNetwork`.
    """

    def __init__(
        self, skeleton: str, channels: int, vector_dim: int, channel_order: ChannelOrder = "rgb"
    ) -> None:
        joints = skeleton_by_name(skeleton)
        parts = PartMode(joints, {WHOLE_BODY: joints.joints})
        super().__init__(parts, channel_order=channel_order)
        # The head's ReLU changes nothing: the features have been rectified.
        self.head = VectorHead(channels, self.parts.joint_counts, vector_dim)

    @abstractmethod
    def features(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B C h/4 w/4"]:
        """The rectified feature map that the head reads."""

    def vectors(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B K d h/4 w/4"]:
        """Raw vectors of all joints."""
        return self.head([self.features(images)])

    def scores(self, vectors: Float[Tensor, "B K d h w"]) -> Float[Tensor, "B K h w"]:
        """Squashed lengths of the vectors; for d = 1 the number itself."""
        return self.head.scores(vectors)

    @torch.no_grad()
    def calibrate(self, images: Float[Tensor, "B 3 h w"]) -> None:
        """Brings the mean score on a first batch to the head's initial score (d > 1 only)."""
        was_training = self.training
        self.train()
        self.head.calibrate([self.features(images)])
        self.train(was_training)

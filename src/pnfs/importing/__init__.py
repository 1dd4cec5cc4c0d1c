"""Other people's checkpoints: the authors' code (PoseNFS), HRNet and SimpleBaseline."""

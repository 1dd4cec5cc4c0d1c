"""What a run is: its identity, its state, its record, and its counterpart at Weights & Biases."""

"""The state of training, written such that a kill at any moment leaves a whole checkpoint."""

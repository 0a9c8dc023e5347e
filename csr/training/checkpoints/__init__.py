"""Where training is, written such that a kill at any moment leaves a whole checkpoint."""

"""Trackers beside TensorBoard: MLflow and Weights & Biases, written to from a thread of rank 0."""

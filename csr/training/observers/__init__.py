"""Observers of the training loop: clocks, skipped steps, TensorBoard points, profiler, checkpoints, stop request."""

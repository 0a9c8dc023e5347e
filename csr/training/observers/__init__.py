"""Observers of the training loop: clock, skipped steps, points, profiler, checkpoints, stop request."""

"""Measurements of a trained model: scores with intervals, calibration, where it looks, what edits do."""

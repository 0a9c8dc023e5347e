"""Runs compared on the same test images: scores, intervals over seeds and folds, paired tests."""

"""Decoded images in one file beside the run, shared by ranks and runs."""

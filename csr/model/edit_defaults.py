"""Defaults of a doctor's edits; without torch, for the flags that show them."""

from __future__ import annotations

ALPHA = 0.2  # importance of what no box covers (paper, Eq. 12)
DOCTOR_GAP = 0.3  # a doctor is asked where the two most likely diagnoses differ by less (paper, Sec. 3.3)
MODES = ("concept", "box", "both")  # what a simulated doctor does

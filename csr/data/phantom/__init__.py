"""Synthetic chest radiographs with planted findings: plausible, cheap, and the same for a seed."""

from csr.data.phantom.draw import Case, draw_case
from csr.data.phantom.rules import DIAGNOSES, FINDINGS, Plan, plan_case
from csr.data.phantom.writer import FILES, write_phantom

__all__ = [
    "DIAGNOSES",
    "FILES",
    "FINDINGS",
    "Case",
    "Plan",
    "draw_case",
    "plan_case",
    "write_phantom",
]

"""Flags that warn a reader of a result: how they are chosen, and how often they are right."""

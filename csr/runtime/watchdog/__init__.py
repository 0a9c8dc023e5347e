"""Ranks that report where they are, so that none waits for ever."""

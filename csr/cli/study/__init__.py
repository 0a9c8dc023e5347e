"""Commands that take several runs."""

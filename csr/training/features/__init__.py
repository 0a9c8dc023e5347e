"""What frozen layers compute, computed once."""

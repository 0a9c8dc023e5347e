"""`hf`: image encoders of transformers, their architecture and their weights."""

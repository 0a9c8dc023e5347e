"""One run: inputs, preparation, the loop, validation."""

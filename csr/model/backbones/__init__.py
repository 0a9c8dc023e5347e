"""Networks that give a spatial map, and the weights they start from."""

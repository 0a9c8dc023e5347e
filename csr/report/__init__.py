"""How results look: pages, charts, pictures with heat maps."""

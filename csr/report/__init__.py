"""The look of results: pages, charts, pictures with heat maps."""

"""The image in full size and depth, for the page's zoom and window: see `source`, `cutting` and `routes`."""

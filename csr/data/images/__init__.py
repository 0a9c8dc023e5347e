"""Image files: found by id, decoded to what a viewer shows, resized."""

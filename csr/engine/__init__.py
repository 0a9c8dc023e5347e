"""DeepSpeed and the device under it."""

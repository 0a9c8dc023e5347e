"""Reports of a run: lines, TensorBoard, records."""

"""What a run reports: lines, TensorBoard, records."""

"""A trained model in other hands: card, folder, README, ONNX."""

"""How much of the diagnoses true concepts, concept logits and prototype scores tell, and concept leakage."""

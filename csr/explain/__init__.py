"""A trained model in a doctor's hands."""

"""A model without its rejected prototypes, and its diagnoses fitted again."""

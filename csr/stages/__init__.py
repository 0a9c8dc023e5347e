"""The three stages of CSR: concept, prototype, task."""

"""A doctor played from labels and boxes, and what the corrections did."""

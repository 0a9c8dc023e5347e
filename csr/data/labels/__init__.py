"""Label tables and box tables: ids, names, readers, the validation split."""

"""Every option of `csr train` once: default, meaning, range; flags and JSON in, frozen options out."""

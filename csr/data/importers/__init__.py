"""Published data sets turned into the label tables, box tables and image folders that `csr train` takes."""

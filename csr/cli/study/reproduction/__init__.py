"""The tables of the paper, and that of BrEaST, from the data to the page: `csr reproduce`."""

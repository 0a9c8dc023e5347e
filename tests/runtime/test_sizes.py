"""Sizes as text."""

from csr.runtime.sizes import gib_text, mib_text


def test_sizes_are_binary_units():
    assert gib_text(3 * 2**29) == "1.50 GiB" and gib_text(0) == "0.00 GiB"
    assert mib_text(2**20 + 2**19) == "1.5 MiB"

"""Untrusted files of torch.save: plain values come back, the rest is refused."""

from __future__ import annotations

import zipfile

import pytest
import torch

from csr.runtime.torch_file import DAMAGED, not_finite, of_another_type, read_torch_file, tensors_in


def test_plain_values_and_tensors_come_back(tmp_path):
    value = {"weight": torch.arange(6.0).reshape(2, 3), "epoch": 3, "names": ["a", None]}
    torch.save(value, tmp_path / "a.pth")
    read = read_torch_file(tmp_path / "a.pth")
    assert torch.equal(read.pop("weight"), value.pop("weight")) and read == value


def test_a_tensor_that_claims_more_values_than_were_stored_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1).expand(1000)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="has fewer values"):
        read_torch_file(tmp_path / "a.pth")


def test_an_archive_that_inflates_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as plain,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    with pytest.raises(ValueError, match="compressed"):
        read_torch_file(tmp_path / "b.pth")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_file_raises_one_of_the_named_errors(tmp_path, share):
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DAMAGED):
        read_torch_file(tmp_path / "a.pth")


def test_sparse_tensors_are_refused(tmp_path):
    torch.save({"weight": torch.eye(3).to_sparse()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="sparse"):
        read_torch_file(tmp_path / "a.pth")


def test_tensors_are_found_at_any_depth_and_loops_end():
    one, two = torch.zeros(1), torch.ones(2)
    value: dict = {"a": [one, (3, {"b": two})], "c": "text"}
    value["self"] = value
    assert {id(t) for t in tensors_in(value)} == {id(one), id(two)}


def test_types_and_values_that_fit_no_weight_are_named():
    own = {"weight": torch.zeros(2), "count": torch.zeros(1, dtype=torch.int64)}
    half = {"weight": torch.zeros(2, dtype=torch.float16), "count": torch.zeros(1, dtype=torch.int32)}
    assert of_another_type(own, half) == []
    complex_weight = {"weight": torch.zeros(2, dtype=torch.complex64), "count": torch.zeros(1)}
    assert of_another_type(own, complex_weight) == ["weight", "count"]
    values = {"a": torch.tensor([0.0, torch.nan]), "b": torch.tensor([torch.inf]), "c": torch.ones(1)}
    assert not_finite({**values, "count": own["count"]}) == ["a", "b"]

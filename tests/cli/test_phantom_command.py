"""`csr phantom`: what it writes, prints and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from csr.cli.phantom import main
from csr.runtime.errors import InputError


def test_the_command_names_the_four_flags_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert main([str(out), "--num_train", "2", "--num_test", "1", "--size", "32"]) == 0
    printed = capsys.readouterr().out
    for flag, name in (
        ("--train_csv", "labels_train.csv"),
        ("--test_csv", "labels_test.csv"),
        ("--train_dir", "train"),
        ("--test_dir", "test"),
    ):
        assert f"{flag} {out / name}" in printed
        assert (out / name).exists()
    assert len(list((out / "train").iterdir())) == 2


def test_a_folder_in_use_is_an_input_error_unless_overwrite(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--num_train", "1", "--num_test", "1", "--size", "32"]
    assert main(arguments) == 0
    with pytest.raises(InputError, match="not empty"):
        main(arguments)
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize(
    "flags",
    [
        ["--num_train", "0"],
        ["--num_test", "x"],
        ["--size", "8"],
        ["--size", "9999"],
        ["--seed", "-1"],
    ],
)
def test_senseless_numbers_are_refused_by_name(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(InputError, match=flags[0]):
        main([str(tmp_path / "set"), *flags])
    assert not (tmp_path / "set").exists()

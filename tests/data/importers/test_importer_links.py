"""Importers and links out of the image folder: refused, or followed into the folders of --links_into."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import raw_chest_sets
import raw_sets

from csr.cli.data import IMPORTERS, main
from csr.runtime.errors import InputError

MAKE = {
    "vindr": lambda folder: raw_sets.vindr(folder, num_train=4, num_test=2),
    "tbx11k": raw_sets.tbx11k,
    "isic2017": raw_sets.isic2017,
    "chexpert": raw_chest_sets.chexpert,
    "mimic": raw_chest_sets.mimic,
    "nih": raw_chest_sets.nih,
    "padchest": raw_chest_sets.padchest,
}
FLAGS = {"padchest": ["--min_images", "1", "--test_fraction", "0.3"]}
SUFFIXES = (".dicom", ".png", ".jpg")


def stored_elsewhere(raw: Path, store: Path) -> Path:
    """Move every image of a data set into a store, as git-annex does, and leave links; return the store."""
    store.mkdir()
    images = [path for path in sorted(raw.rglob("*")) if path.suffix in SUFFIXES and path.is_file()]
    for number, path in enumerate(images):
        path.rename(store / f"{number}{path.suffix}")
        path.symlink_to(store / f"{number}{path.suffix}")
    return store


def test_every_importer_is_here():
    assert MAKE.keys() == IMPORTERS.keys()


@pytest.mark.parametrize("name", MAKE)
def test_links_out_of_the_images_need_leave_which_the_printed_commands_repeat(
    name, bring_in, tmp_path, capsys
):
    raw = MAKE[name](tmp_path / "raw")
    plain = bring_in(name, raw, *FLAGS.get(name, ()), out="plain")
    wanted = {path.name: path.read_bytes() for path in plain.glob("*.csv")}
    store = stored_elsewhere(raw, tmp_path / "store")
    with pytest.raises(InputError, match=f"links? leads? out of .*give --links_into {store}") as caught:
        bring_in(name, raw, *FLAGS.get(name, ()))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="leads out of"):
        bring_in(name, raw, *FLAGS.get(name, ()), "--links_into", str(raw))

    capsys.readouterr()
    out = bring_in(name, raw, *FLAGS.get(name, ()), "--links_into", str(store))
    assert {path.name: path.read_bytes() for path in out.glob("*.csv")} == wanted
    printed = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line) for line in printed if line.startswith("  csr ")]
    assert [command[1] for command in commands] == ["data", "train"]
    assert all(command[command.index("--links_into") + 1] == str(store) for command in commands)
    main(commands[0][2:])
    assert "Problem: missing" not in (text := capsys.readouterr().out) and "leads out" not in text

    copied = bring_in(
        name, raw, *FLAGS.get(name, ()), "--links_into", str(store), "--images", "copy", out="c"
    )
    assert "--links_into" not in capsys.readouterr().out
    images = [path for path in copied.rglob("*") if path.suffix in SUFFIXES]
    assert images and not any(path.is_symlink() for path in images)


def test_a_linked_folder_is_not_even_listed_without_leave(bring_in, tmp_path):
    raw = raw_sets.tbx11k(tmp_path / "raw")
    (raw / "imgs" / "tb").rename(tmp_path / "tb")
    (raw / "imgs" / "tb").symlink_to(tmp_path / "tb")
    (tmp_path / "tb" / "tb0001.png").unlink()
    with pytest.raises(InputError, match="TBX11K_train.txt line 9: a link leads out of .*/imgs/tb' -> "):
        bring_in("tbx11k", raw)
    with pytest.raises(InputError, match="image 'tb/tb0001' is not in"):
        bring_in("tbx11k", raw, "--links_into", str(tmp_path / "tb"))


def test_a_link_that_leads_nowhere_may_be_omitted(bring_in, tmp_path, capsys):
    """As git-annex leaves images whose content was not fetched."""
    raw = raw_chest_sets.chexpert(tmp_path / "raw")
    store = stored_elsewhere(raw, tmp_path / "store")
    first = sorted((raw / "train").rglob("*frontal.jpg"))[0]
    first.resolve().unlink()
    given = ("chexpert", raw, "--links_into", str(store))
    with pytest.raises(InputError, match="is no file, or a link that leads nowhere"):
        bring_in(*given)
    bring_in(*given, "--on_bad_image", "omit")
    assert "1 missing or unreadable" in capsys.readouterr().out


def test_a_folder_of_links_that_is_none_is_one_line(bring_in, tmp_path):
    raw = raw_sets.tbx11k(tmp_path / "raw")
    with pytest.raises(InputError, match="--links_into .*none: no such folder"):
        bring_in("tbx11k", raw, "--links_into", str(tmp_path / "none"))

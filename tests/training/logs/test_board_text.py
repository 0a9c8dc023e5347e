"""Markdown of the TEXT tab, rendered as TensorBoard renders it."""

from __future__ import annotations

import re
from html import unescape

from train_options import train_options

from csr.training.logs.board_text import board_texts, table

RECORD = {
    "data": {
        "dataset": "Phantom_set",
        "images": {"train": 4, "val": 2, "test": 3},
        "labels": {
            "<b>Nodule | Mass_*": {
                "kind": "concept",
                **{s: {"positive": 1, "annotated": n} for s, n in (("train", 4), ("val", 2), ("test", 3))},
            }
        },
    },
    "code_revision": "abc1234-dirty",
    "git_revision": None,
    "versions": {"torch": "2.9"},
    "world_size": 2,
    "effective_batch": 16,
    "precision": {"name": "bf16"},
    "zero_stage": 2,
}


def cells(markdown: str) -> list[list[str]]:
    from tensorboard.plugin_util import markdown_to_safe_html

    html = markdown_to_safe_html(markdown)
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [[unescape(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]


def test_cells_show_their_text_whatever_it_is():
    rows = [["a|b", "<script>x</script>", "*_`#"], ["two\nlines", "&amp;", "[x](y)"]]
    assert cells(table(("one", "two", "three"), rows))[1:] == [rows[0], ["two lines", "&amp;", "[x](y)"]]


def test_options_data_and_code_are_told():
    texts = board_texts(RECORD, train_options(lr="0.5", exp_name="a_b_c"))
    options, data, code = (cells(texts[f"run/{name}"]) for name in ("options", "data", "code"))
    changed = [["--lr", "0.5", "0.0001"], ["--exp_name", "a_b_c", "csr_exp"]]
    assert options[1:3] == changed, "these come first"
    assert ["--seed", "0", ""] in options
    assert ["images", "4", "2", "3"] in data
    assert ["<b>Nodule | Mass_*", "concept", "1 of 4", "1 of 2", "1 of 3"] in data
    assert "Phantom" in texts["run/data"]
    assert ["revision of the folder that the run was started in", "abc1234-dirty"] in code
    assert ["revision of csr", "installed, no git tree"] in code and ["ranks", "2"] in code

"""The folder of an atlas stands alone; `csr atlas` writes it, overwrites it, or refuses in one line."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from atlas_records import N, flags, prototypes
from PIL import Image
from tiny_model import TARGETS, K, M, tiny_model, write_run

from csr.cli.atlas import main
from csr.cli.explain import main as explain
from csr.config.options import DataOptions, TrainConfig
from csr.data.labels.table import read_label_table
from csr.data.labels.validation_split import split_validation
from csr.explain.neighbours import read_neighbours
from csr.explain.source import Source, with_links
from csr.model.sharing.origin import model_sha256
from csr.runtime.errors import InputError


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href") if name in given]
        self.ids |= {given["id"] or ""} if "id" in given else set()


def test_every_link_leads_to_something_inside_the_folder(atlas):
    pages = {path.name: Page(path.read_text()) for path in atlas.glob("*.html")}
    assert sorted(pages) == ["concept_000.html", "concept_001.html", "concept_002.html", "index.html"]
    for name, page in pages.items():
        text = (atlas / name).read_text()
        scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
        assert len(scripts) == 1 and f"script-src &#39;sha256-{digest}&#39;" in text.replace("'", "&#39;")
        assert "b" not in page.tags[: page.tags.index("body")]
        for address in page.addresses:
            if address.startswith("data:image/png;base64,"):
                continue
            file, _, anchor = address.partition("#")
            target = atlas / unquote(file) if file else atlas / name
            assert not re.match(r"[a-z]+:|/|\.\.", address) and target.is_file(), address
            assert not anchor or anchor in pages[target.name].ids, address
    text = (atlas / "concept_002.html").read_text()
    assert "&lt;b&gt;Pleural | effusion" in text and "<b>Pleural" not in text
    linked = {unquote(address) for page in pages.values() for address in page.addresses}
    pictures = {str(p.relative_to(atlas)) for p in atlas.rglob("*") if p.suffix in (".png", ".jpg")}
    assert pictures <= linked, "no picture without a page"


def test_linked_images_need_the_flag_or_the_options_of_the_run(model_folder, data, tmp_path, atlas):
    linked = tmp_path / "data"
    (linked / "train").mkdir(parents=True)
    (linked / "labels.csv").write_bytes((data / "labels.csv").read_bytes())
    for entry in (data / "train").iterdir():  # the sub-folder too
        (linked / "train" / entry.name).symlink_to(entry)
    with pytest.raises(
        InputError, match=f"12 of 12 images are behind links .*--links_into {data / 'train'},"
    ):
        main(flags(model_folder, linked, tmp_path / "out"))
    assert main([*flags(model_folder, linked, tmp_path / "out"), "--links_into", str(data)]) == 0
    names = [
        concept["images"] for concept in json.loads((tmp_path / "out" / "atlas.json").read_text())["concepts"]
    ]
    assert names == [
        concept["images"] for concept in json.loads((atlas / "atlas.json").read_text())["concepts"]
    ]
    source = Source(linked, tiny_model(), TrainConfig(data=DataOptions(links_into=("kept",))), True, 8, {})
    assert with_links(source, None).config.data.links_into == ("kept",)
    assert with_links(source, []).config.data.links_into == ()


def test_crops_have_predictable_names_and_nearest_json_is_what_explain_reads(
    atlas, model_folder, data, tmp_path
):
    crops = sorted(str(p.relative_to(atlas)) for p in (atlas / "prototypes").iterdir())
    assert crops == sorted(f"prototypes/c{k:03d}_p{m:03d}.png" for k in range(K) for m in range(M))
    assert max(Image.open(atlas / crops[0]).size) == 160
    found = read_neighbours(atlas, tiny_model())
    assert {one.image_id for near in found.values() for one in near} >= {"im1", "sub/a&b 'x"}
    assert len(found) == K * M and all(one.image.is_file() for near in found.values() for one in near)
    assert found[0, 0][0].similarity >= found[0, 0][1].similarity
    assert "/" not in {p.name for p in (atlas / "images").iterdir()} and not list(atlas.rglob("*'*"))
    out = tmp_path / "explained"
    assert (
        explain([model_folder, str(data / "train" / "im1.png"), "--out", str(out), "--atlas", str(atlas)])
        == 0
    )
    numbers = json.loads((out / "explanation.json").read_text())
    assert any(concept["training_regions"] for concept in numbers["concepts"])
    assert "training region behind the prototype" in (out / "index.html").read_text()


def test_keep_csv_has_a_row_for_every_prototype_all_kept(atlas, numbers):
    lines = (atlas / "keep.csv").read_text().splitlines()
    assert lines[0] == "concept,prototype,keep,wins,alive,top_weight,top_target,note,vector"
    assert len(lines) == 1 + K * M
    first = next(prototypes(numbers))[2]
    assert lines[1].startswith(f"Cavity,0,1,{first['wins']},{int(first['alive'])},")
    assert lines[1].endswith(f",{first['vector']}") and lines[1] != lines[2]


def test_a_run_is_looked_at_without_its_validation_images(model, data, tmp_path, capsys):
    run = write_run(tmp_path / "runs" / "r", model)
    config = json.loads((run / "config.json").read_text())
    config["options"]["data"] = {
        "train_csv": str(data / "labels.csv"),
        "train_dir": str(data / "train"),
        "val_fraction": 0.25,
    }
    (run / "config.json").write_text(json.dumps(config))
    assert main([str(run), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    numbers = json.loads((tmp_path / "out" / "atlas.json").read_text())
    table = read_label_table(data / "labels.csv", target_cols=TARGETS)
    train, val = split_validation(table, fraction=0.25, seed=0)
    assert numbers["images"] == len(train) < N
    assert f"{len(val)} validation images are left out" in capsys.readouterr().out
    named = {one["image_id"] for _, _, record in prototypes(numbers) for one in record["nearest"]}
    assert named and not named & {table.image_ids[i] for i in val}
    assert list((tmp_path / "runs" / ".cache" / "images").iterdir()), "the run's cache of images is used"
    assert "/" not in numbers["csv"]


def test_the_pages_show_few_first_looks_boxes_where_known_and_words_for_places(atlas, numbers, model):
    index = (atlas / "index.html").read_text()
    doubted = sum(bool(p["hints"]) and p["alive"] for _, _, p in prototypes(numbers))
    first = index.count('<li class="decided">')
    assert first == min(5, doubted) and (doubted <= 5 or f"{doubted - first} more raised a doubt" in index)
    assert numbers["model_sha256"] == model_sha256(model) and numbers["origin"] in index
    boxed = {one["image_id"] for k, _, p in prototypes(numbers) for one in p["nearest"] if one["boxes"]}
    assert boxed and boxed <= {"im1", "im5", "im7", "im9"}, (
        "the images with a box of a concept that is present"
    )
    for k, _, record in prototypes(numbers):
        for one in record["nearest"]:
            if one["image_id"] in ("im1", "im5") and k == 0:
                height = 50 + int(one["image_id"][2:])
                assert one["boxes"] == [pytest.approx([0, 0, 1, 50 / height])]
    page = (atlas / "concept_000.html").read_text()
    assert re.search(r'<b style="left:0.00%;top:0.00%;width:100.00%;height:(98.04|90.91)%">', page)
    assert re.search(r"Highest cell on average (in the centre|upper|lower|left|right)", page)


def test_a_runs_relative_data_is_found_from_another_folder_or_missed_at_once(
    model, data, tmp_path, monkeypatch
):
    run = write_run(tmp_path / "there" / "runs" / "r", model)
    config = json.loads((run / "config.json").read_text())
    options = {"data": {"train_csv": "d/labels.csv", "train_dir": "d/train"}, "run": {"output_dir": "runs"}}
    (run / "config.json").write_text(json.dumps({**config, "options": options}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = [str(run), "--out", "out", "--workers", "1", "--top", "1"]
    monkeypatch.setattr("csr.explain.source.load_model", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(InputError, match=f"^d/labels.csv: no such .* {tmp_path / 'there'}, where .* --csv$"):
        main(words)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "there" / "d").symlink_to(data)
    assert main(words) == 0 and (tmp_path / "elsewhere" / "out" / "index.html").is_file()


def test_a_folder_in_use_is_refused_and_edited_decisions_survive_every_overwrite(
    model_folder, data, tmp_path, capsys
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("a chapter")
    for more in ((), ("--overwrite",)):
        with pytest.raises(InputError, match="not empty|other files"):
            main(flags(model_folder, data, out, *more))
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]
    out = tmp_path / "second"
    assert main(flags(model_folder, data, out, "--top", "1")) == 0
    written = (out / "keep.csv").read_bytes()
    with pytest.raises(InputError, match="not empty"):
        main(flags(model_folder, data, out))

    def again() -> list[str]:
        capsys.readouterr()
        assert main(flags(model_folder, data, out, "--overwrite", "--top", "1")) == 0
        assert (out / "keep.csv").read_bytes() == written
        return [line for line in capsys.readouterr().out.splitlines() if "keep_old" in line]

    assert again() == [] and not list(out.glob("keep_old*")), "nobody decided anything"
    first, second = written.replace(b",1,", b",0,", 1), written.replace(b"\n", b"\r\n")
    (out / "keep.csv").write_bytes(first)
    assert again() == [f"{out / 'keep_old_1.csv'}: the decisions that were in keep.csv of the earlier atlas"]
    assert again() == [] and (out / "keep_old_1.csv").read_bytes() == first
    (out / "keep.csv").write_bytes(second)
    assert len(again()) == 1 and (out / "keep_old_1.csv").read_bytes() == first
    assert (out / "keep_old_2.csv").read_bytes() == second


def test_what_cannot_be_used_is_refused_in_one_line(model, model_folder, data, tmp_path):
    with pytest.raises(InputError, match="--csv and --dir"):
        main([model_folder, "--out", str(tmp_path / "out")])
    run = write_run(tmp_path / "run", model)
    with pytest.raises(InputError, match="secret/train.csv: no such file.*--csv"):
        main([str(run), "--out", str(tmp_path / "out")])
    config = json.loads((run / "config.json").read_text())
    for options in (
        {"model": {"nonsense": 1}},
        {"data": {"val_fraction": "x"}},
        {"data": {"workers": 0}},
        [],
    ):
        (run / "config.json").write_text(json.dumps({**config, "options": options}))
        with pytest.raises(InputError):
            main([str(run), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()

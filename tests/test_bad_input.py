"""What a user may get wrong: one line that names file, row and fix, exit code 2, nothing written."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from train_command import contents, flags, train

import csr.train
from csr.cli import exit_codes
from csr.cli.exit_codes import run_command
from csr.runtime.errors import InputError

Refused = Callable[..., str]


@pytest.fixture
def data(phantom_folder: Path, tmp_path: Path) -> Path:
    """A copy of the phantom data set, to be damaged."""
    return Path(shutil.copytree(phantom_folder, tmp_path / "data"))


@pytest.fixture
def refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command in this process, checks what every refusal has in common, and returns its line."""

    def run(*more: str, **changed: object) -> str:
        out = tmp_path / "results"
        arguments = flags(data, out, *more, **{"image_cache": "off", **changed})  # type: ignore[arg-type]
        before = contents(out)
        code = run_command(csr.train.main, arguments)
        printed = capsys.readouterr()
        lines = printed.err.splitlines()
        assert code == 2, printed
        assert len(lines) == 1 and lines[0].startswith("csr: error: "), printed.err
        assert "Traceback" not in printed.out + printed.err
        assert "=== Stage" not in printed.out, "training had begun"
        assert contents(out) == before
        return lines[0]

    return run


def edit(path: Path, change: Callable[[list[list[str]]], object]) -> None:
    """Change the rows (lists of cells, the header first) of a CSV file in place."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(",".join(row) + "\n" for row in rows))


def without_column(rows: list[list[str]], name: str) -> None:
    at = rows[0].index(name)
    for row in rows:
        del row[at]


def first_image(data: Path, split: str = "train") -> str:
    return (data / f"labels_{split}.csv").read_text().splitlines()[1].split(",")[0]


# tables


@pytest.mark.parametrize("which", ["train_csv", "test_csv"])
def test_a_missing_table_is_named(refused, which):
    assert "nowhere.csv" in refused(**{which: "nowhere.csv"})


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize("text", [b"", b"\n\n", b"image_id,Nodule,COPD\n"])
def test_an_empty_table_is_named(refused, data, which, text):
    path = data / f"labels_{which}.csv"
    path.write_bytes(text)
    assert str(path) in refused()


def test_a_table_without_image_id_says_which_columns_it_has(refused, data):
    path = data / "labels_train.csv"
    edit(path, lambda rows: rows[0].__setitem__(0, "file"))
    line = refused()
    assert f"{path} line 1" in line and "no column 'image_id'" in line and "'file'" in line


@pytest.mark.parametrize("value", ["2", "yes", "-1", "0.5", "nan", "1e0", "TRUE", "?"])
def test_a_label_that_is_neither_0_nor_1_nor_empty_is_named_with_line_and_column(refused, data, value):
    path = data / "labels_train.csv"
    column = path.read_text().split(",")[2]
    edit(path, lambda rows: rows[3].__setitem__(2, value))
    line = refused()
    assert f"{path} line 4" in line and f"{column!r}" in line and f"'{value}'" in line


def test_a_row_of_another_width_is_named(refused, data):
    edit(data / "labels_test.csv", lambda rows: rows[2].append("1"))
    assert "labels_test.csv line 3" in refused()


def test_an_image_in_both_tables_is_named_with_both_lines(refused, data):
    name = first_image(data)
    shutil.copy(next((data / "train").glob(f"{name}*")), data / "test")
    edit(data / "labels_test.csv", lambda rows: rows[1].__setitem__(0, name))
    line = refused()
    assert name in line and "labels_train.csv" in line and "labels_test.csv" in line and "remove" in line


def test_one_table_for_training_and_test_is_refused(refused, data):
    assert "share 48 image(s)" in refused(test_csv=data / "labels_train.csv", test_dir=data / "train")


@pytest.mark.parametrize("name", ["Cavity", "COPD"])
def test_a_column_that_the_test_table_lacks_is_named(refused, data, name):
    edit(data / "labels_test.csv", lambda rows: without_column(rows, name))
    line = refused()
    assert "labels_test.csv" in line and f"lacks '{name}'" in line


def test_a_column_that_only_the_test_table_has_is_named(refused, data):
    edit(data / "labels_train.csv", lambda rows: without_column(rows, "Cavity"))
    assert "also has 'Cavity'" in refused()


def test_no_concept_columns_are_refused(refused, data):
    for split in ("train", "test"):
        targets = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease", "No finding")

        def keep(rows, targets=targets):
            for name in [c for c in rows[0] if c not in ("image_id", "rad_id", *targets)]:
                without_column(rows, name)

        edit(data / f"labels_{split}.csv", keep)
    assert "no concept column" in (line := refused()) and "--concept_cols" in line


def test_no_target_columns_are_refused(refused, data):
    for split in ("train", "test"):
        for name in ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease", "No finding"):
            edit(data / f"labels_{split}.csv", lambda rows, name=name: without_column(rows, name))
    assert "no target column" in (line := refused()) and "--target_cols" in line


@pytest.mark.parametrize("flag", ["--concept_cols", "--target_cols"])
def test_a_named_column_that_is_not_there_is_refused_with_those_that_are(refused, flag):
    line = refused(flag, "Bone age")
    assert "'Bone age'" in line and flag in line and "'Cavity'" in line


def empty_column(data: Path, name: str) -> None:
    def clear(rows):
        at = rows[0].index(name)
        for row in rows[1:]:
            row[at] = "0"

    edit(data / "labels_train.csv", clear)


def test_a_concept_without_a_positive_is_named_with_both_ways_out(refused, data):
    empty_column(data, "Cavity")
    line = refused()
    assert "no positive image for 'Cavity'" in line and "--drop_rare 1" in line and "labels_train.csv" in line


def test_drop_rare_drops_such_a_concept_with_a_notice(data, tmp_path, capsys):
    empty_column(data, "Cavity")
    # a pooled map ends this run after the tables, before anything is trained
    code = run_command(csr.train.main, flags(data, tmp_path / "results", "--drop_rare", "1", image_size="16"))
    printed = capsys.readouterr()
    assert code == 2 and "1x1" in printed.err
    assert [line for line in printed.out.splitlines() if "Dropped" in line and "Cavity" in line]


def test_a_drop_rare_that_leaves_no_concept_is_refused(refused):
    assert "--drop_rare" in refused("--drop_rare", "1000")


def test_one_image_cannot_be_split(refused, data):
    edit(data / "labels_train.csv", lambda rows: rows.__delitem__(slice(4, None)))
    assert "labels_train.csv" in refused("--drop_rare", "1")


# images


def test_missing_and_unreadable_images_of_both_folders_are_listed_together(refused, data):
    train_files, test_files = (sorted((data / split).iterdir()) for split in ("train", "test"))
    train_files[0].unlink()
    train_files[1].write_bytes(b"this is no image")
    test_files[0].unlink()
    test_files[1].write_bytes(test_files[1].read_bytes()[:200])
    line = refused()
    for file in (*train_files[:2], *test_files[:2]):
        assert file.stem in line


def test_unreadable_images_of_both_folders_are_listed_together_with_their_lines(refused, data):
    broken = [data / "train" / next((data / "train").iterdir()).name, next((data / "test").iterdir())]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(b"\x89PNG\r\n\x1a\n")
    line = refused()
    assert all(str(file) in line for file in broken)
    assert "labels_train.csv line" in line and "labels_test.csv line" in line


def test_of_many_missing_images_twenty_are_listed_and_the_rest_counted(refused, data):
    files = sorted((data / "train").iterdir())
    for file in files[:25]:
        file.unlink()
    line = refused()
    assert sum(file.stem in line for file in files[:25]) == 20
    assert "25 image(s)" in line and "5 more" in line and "--on_bad_image quarantine" in line


def test_a_missing_image_folder_is_named(refused, tmp_path):
    assert f"{tmp_path / 'absent'}: no such folder" in refused(test_dir=tmp_path / "absent")


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_an_id_that_leaves_the_folder_is_refused(refused, data, tmp_path, kind):
    outside = tmp_path / "outside.png"
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(outside)
    name = {"parent": "../../outside", "absolute": str(outside.with_suffix("")), "link": "linked"}[kind]
    if kind == "link":
        (data / "train" / "linked.png").symlink_to(outside)
    edit(data / "labels_train.csv", lambda rows: [row.__setitem__(0, name) for row in rows[1:4]])
    line = refused()
    assert "labels_train.csv" in line and "line 2" in line and name[:12] in line


@pytest.mark.parametrize(
    "row, said",
    [
        ("{id},Cavity,5,5,2,9", "line 2"),
        ("{id},Cavity,a,5,8,9", "x_min"),
        ("absent,Cavity,1,1,2,2", "absent"),
        ("{id},Cavity,1,1,900,2", "outside"),
        ("{id},Nonsense,1,1,2,2", "Nonsense"),
    ],
)
def test_bad_boxes_are_refused_with_their_line(refused, data, row, said):
    path = data / "boxes.csv"
    header = "image_id,class_name,x_min,y_min,x_max,y_max\n"
    path.write_text(header + row.format(id=first_image(data)) + "\n")
    line = refused("--boxes_csv", str(path))
    assert str(path) in line and said in line


# model


def test_a_feature_map_of_one_cell_is_refused(refused):
    assert "feature map is 1x1" in (line := refused(image_size="16")) and "larger images" in line


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"model_name": "resnet1234"}, "no such model"),
        ({"model_name": None}, "name the timm model"),
        ({"backbone_type": "vit", "model_name": "resnet18"}, "no vit"),
        ({"backbone_type": "nn"}, "--backbone_type"),
    ],
)
def test_an_unknown_backbone_is_refused(refused, changed, said):
    assert said in refused(**changed)


class Bomb:
    """Its unpickling creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def weights_file(kind: str, folder: Path) -> Path:
    path = folder / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"weight": Bomb(folder / "ran")}))
    elif kind == "torch pickle":
        torch.save({"weight": Bomb(folder / "ran")}, path)
    elif kind == "other model":
        torch.save(torch.nn.Linear(3, 3).state_dict(), path)
    elif kind == "partial":
        import timm

        state = timm.create_model("test_resnet").state_dict()
        torch.save({k: v for k, v in state.items() if "layer3" not in k}, path)
    elif kind == "wrong shapes":
        import timm

        torch.save({k: v.flatten() for k, v in timm.create_model("test_resnet").state_dict().items()}, path)
    elif kind in ("text", "safetensors"):
        path.write_text("no weights at all")
    return path


@pytest.mark.parametrize(
    "kind",
    ["absent", "text", "safetensors", "pickle", "torch pickle", "other model", "partial", "wrong shapes"],
)
def test_weights_that_do_not_fit_are_refused_and_never_run(refused, tmp_path, kind):
    path = weights_file(kind, tmp_path)
    assert str(path) in refused(backbone_weights=path)
    assert not (tmp_path / "ran").exists()


def test_pretrained_weights_that_cannot_be_had_offline_name_the_ways_out(refused):
    line = refused("--pretrained")
    assert "--backbone_weights" in line and "--no_pretrained" in line


def test_contradicting_weights_flags_are_refused(refused, tmp_path):
    line = refused("--no_pretrained", backbone_weights="x.pth")
    assert "--no_pretrained contradicts --backbone_weights" in line


# results


def test_existing_results_stay_as_they_are(refused, tmp_path):
    folder = tmp_path / "results" / "csr_exp"
    folder.mkdir(parents=True)
    (folder / "final_model.pth").write_bytes(b"precious")
    line = refused()
    assert str(folder) in line and "--overwrite" in line and "--exp_name" in line
    assert "holds results already" in refused("--dry_run")


def test_overwrite_replaces_nothing_before_everything_else_was_checked(refused, data, tmp_path):
    folder = tmp_path / "results" / "csr_exp"
    (folder / "tensorboard").mkdir(parents=True)
    (folder / "final_model.pth").write_bytes(b"precious")
    (folder / "tensorboard" / "events").write_bytes(b"curves")
    sorted((data / "test").iterdir())[0].write_bytes(b"no image")
    assert "cannot be read" in refused("--overwrite")


def test_a_file_where_results_should_go_is_named(refused, tmp_path):
    (tmp_path / "taken").write_text("a file")
    assert "is no folder" in refused(output_dir=tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "a file"


# flags


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--lr", "abc"), "--lr"),
        (("--lr", "-1"), "--lr"),
        (("--batch_size", "1.5"), "--batch_size"),
        (("--precision", "fp8"), "--precision"),
        (("--epochs", "3"), "--epochs"),
        (("stray",), "stray"),
        (("--num_prototype", "3"), "--num_prototype"),
        (("--concept_cols",), "--concept_cols"),
        (("--workers", "0"), "--workers"),
        (("--seed", "99999999999999999999"), "--seed"),
        (("--num_prototypes", "1000000000"), "--num_prototypes"),
        (("--timeout", "1e300"), "--timeout"),
        (("--batch_size", "1000000000000"), "--batch_size"),
        (("--max_pos_weight", "0.1"), "--max_pos_weight"),
        (("--exp_name", "a/b"), "--exp_name"),
        (("--exp_name", "x" * 300), "--exp_name"),
        (("--task_loss", "ce"), "--task_loss ce"),
        (("--gamma", "inf"), "--gamma"),
    ],
)
def test_a_bad_flag_is_named(refused, arguments, said):
    assert said in refused(*arguments)


def test_fp16_without_a_gpu_names_the_alternative(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "bf16 or fp32" in refused("--precision", "fp16")


STAGE_2 = {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize(
    "content, more, said",
    [
        ({**STAGE_2, "zero_optimisation": {}}, (), "unknown key 'zero_optimisation'"),
        ({**STAGE_2, "torch_autocast": {"enabled": True, "dtyp": 1}}, (), "unknown key 'dtyp'"),
        ({**STAGE_2, "train_micro_batch_size_per_gpu": 3}, (), "--batch_size"),
        ({**STAGE_2, "gradient_accumulation_steps": 4}, (), "--accumulation"),
        ({**STAGE_2, "gradient_clipping": 0.5}, ("--clip", "2"), "--clip"),
        ({**STAGE_2, "optimizer": {"type": "Adam"}}, (), "--lr"),
        ({**STAGE_2, "fp16": {"enabled": True}}, ("--precision", "bf16"), "--precision bf16 contradicts"),
        ({"zero_optimization": {"stage": 3}}, (), "ZeRO 1 or 2"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, (), "offload_optimizer"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}}, (), '"device": "cpu"'),
        ({}, (), "ZeRO 1 or 2"),
        ([], (), "no JSON object"),
    ],
)
def test_a_deepspeed_json_that_cannot_be_honoured_is_named(refused, tmp_path, content, more, said):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(content))
    line = refused("--ds_config", str(path), *more)
    assert str(path) in line and said in line


def test_a_key_that_stands_twice_in_the_deepspeed_json_is_named(refused, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text('{"zero_optimization": {"stage": 2},\n "zero_optimization": {"stage": 1}}')
    assert "twice" in refused("--ds_config", str(path))


# real processes


@pytest.mark.parametrize("rank, waits", [("0", []), ("1", [exit_codes.RANK_0_SPEAKS_FIRST_S])])
def test_other_ranks_let_rank_0_speak_first_because_the_launcher_ends_all_with_the_first(
    rank, waits, monkeypatch, capsys
):
    waited: list[float] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(exit_codes.time, "sleep", waited.append)

    def main(argv):
        raise InputError("labels.csv\nline 3")

    assert run_command(main) == 2
    assert waited == waits
    assert capsys.readouterr().err == "csr: error: labels.csv line 3\n"


def assert_told_once(done, folder: Path, said: str) -> None:
    told = [line for line in done.stderr.splitlines() if "csr: error:" in line]
    assert done.returncode != 0
    assert len(told) == 1 and told[0].startswith("csr: error: ") and said in told[0], done.stderr
    assert 'File "' not in done.stderr.replace(launchers_own_traceback(done.stderr), ""), done.stderr
    assert "=== Stage" not in done.stdout
    assert contents(folder) == {}


def launchers_own_traceback(text: str) -> str:
    """torchrun closes every failed run with a traceback of its own, which no program under it can prevent."""
    at = text.find("torch.distributed.elastic.multiprocessing.errors.ChildFailedError")
    return text[text.rfind("Traceback", 0, at) : at] if at >= 0 else ""


@pytest.mark.dist
def test_what_only_deepspeed_can_refuse_is_refused_before_training(phantom_folder, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2, "overlap_com": True}}))
    done = train(*flags(phantom_folder, tmp_path / "results", "--ds_config", str(path)))
    assert_told_once(done, tmp_path / "results", "overlap_com")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
@pytest.mark.parametrize("mistake", ["flag", "table", "image"])
def test_two_ranks_tell_a_mistake_once(data, tmp_path, launcher, mistake):
    more: tuple[str, ...] = ()
    if mistake == "flag":
        more, said = ("--lr", "0"), "--lr"
    elif mistake == "table":
        edit(data / "labels_train.csv", lambda rows: rows[3].__setitem__(2, "2"))
        said = "line 4"
    else:
        broken = sorted((data / "test").iterdir())[-1]
        broken.write_bytes(b"no image")
        said = broken.name
    done = train(*flags(data, tmp_path / "results", *more), launcher=launcher)
    assert_told_once(done, tmp_path / "results", said)
    # torchrun itself always ends with 1
    assert done.returncode == (2 if launcher == "deepspeed" else 1)

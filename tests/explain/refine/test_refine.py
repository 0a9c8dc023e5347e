"""A dropped prototype is gone: it scores 0, never wins, and moves nothing; the head is what stage 3 would fit."""

from __future__ import annotations

import copy
import csv
import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from marked_images import add_mark, write_marked
from PIL import Image
from sklearn.model_selection import KFold
from tiny_model import CONCEPTS, OPTIONS, TARGETS, K, M, T, tiny_model, write_run
from train_command import contents, flags, train

from csr.cli.atlas import main as atlas
from csr.cli.evaluate import main as evaluate
from csr.cli.explain import main as explain
from csr.cli.export import main as export
from csr.cli.predict import main as predict
from csr.cli.refine import main
from csr.data.images.resize import resize_file
from csr.evaluation.measure import count_alive
from csr.evaluation.pointing_game import SCORES, pointing_rows
from csr.explain.atlas.keep import read_keep, write_keep
from csr.explain.explanation import explain as explain_images
from csr.explain.refine.fit import FitOptions, Scores, fit_head, keep_head
from csr.explain.refine.reliance import reliance_lines, remaining_reliance
from csr.model import CSR
from csr.model.interaction import check_safety, make_edits
from csr.model.sharing.loading import load_model
from csr.runtime.errors import InputError
from csr.stages.task import TaskStage

ALL = np.ones((K, M), dtype=bool)
NUM_TRAIN = 240
SHORTCUT_RUN = {
    "image_size": "128",
    "num_prototypes": "6",
    "lr": "3e-3",
    "prototype_lr_scale": "0.1",
    "augment": "none",
    "epochs_stage1": "12",
    "epochs_stage2": "5",
    "epochs_stage3": "15",
    "val_fraction": "0.2",
    "seed": "1",
    "precision": "fp32",
}


def dropping(*places: tuple[int, int]) -> torch.Tensor:
    dropped = torch.zeros(K, M, dtype=torch.bool)
    for k, m in places:
        dropped[k, m] = True
    return dropped


def refined_model(dropped_KM: torch.Tensor) -> CSR:
    """As refine leaves it: prototypes of length 0, and no weight on them."""
    model = tiny_model()
    model.prototypes.drop_(dropped_KM)
    with torch.no_grad():
        model.task_head.linear.weight[:, dropped_KM.flatten()] = 0.0
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(3))


# what dropping means


@torch.no_grad()
def test_a_dropped_prototype_scores_zero_and_the_rest_is_a_model_without_its_columns(images):
    dropped = dropping((0, 1), (2, 0), (2, 3))
    model, whole = refined_model(dropped), tiny_model()
    output, before = model(images), whole(images)
    assert (output.similarity_maps[:, dropped] == 0).all() and (
        output.similarity_scores[:, dropped] == 0
    ).all()
    kept = ~dropped
    assert torch.equal(output.similarity_maps[:, kept], before.similarity_maps[:, kept])
    columns = kept.flatten()
    head = whole.task_head.linear
    by_hand = before.similarity_scores.flatten(1)[:, columns] @ head.weight[:, columns].T + head.bias
    torch.testing.assert_close(output.logits, by_hand)
    assert torch.equal(model.prototypes.kept_KM, kept)


@torch.no_grad()
def test_what_is_dropped_stays_dropped_in_every_form_of_the_model(images, tmp_path):
    dropped = dropping((0, 1), (1, 0), (1, 1), (1, 2), (1, 3))
    model = refined_model(dropped)
    expected = model(images)
    loaded = CSR.from_pretrained(model.save_pretrained(tmp_path / "model"))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    plain = CSR(K, T, M, **OPTIONS).eval()
    plain.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    for other in (loaded, plain):
        assert torch.equal(other(images).logits, expected.logits)
        assert torch.equal(other.prototypes.kept_KM, ~dropped)


@torch.no_grad()
def test_it_never_wins_in_evaluation_explanation_and_pointing():
    model = refined_model(dropping((0, 0), (2, 0), (2, 1), (2, 2), (2, 3)))
    stored = torch.randint(
        0, 256, (4, 1, 72, 72), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    seen = model.embed(model.features(model.card.preprocessing.transform()(stored))).mean(dim=(0, 1, 2))
    model.prototypes.proto_KMD[0, 1:] -= 9 * seen / seen.norm()  # cosines below the 0 of what was dropped
    output = model(model.card.preprocessing.transform()(stored))
    assert (output.similarity_scores[:, 0, 1:].amax(1) < 0).all(), "else this test shows nothing"
    for e in explain_images(model, stored):
        assert e.best_K[0] != 0 and e.best_K[2] == -1
        assert (e.share_TKM[:, 0, 0] == 0).all() and (e.share_TKM[:, 2] == 0).all()
        torch.testing.assert_close((e.share_TKM.sum((1, 2)) + e.bias_T).float(), e.logit_T, rtol=0, atol=1e-5)
        assert 2 not in e.shown(K) or not e.active_K[:2].any()
    batch = {
        "concept": torch.ones(4, K),
        "box": torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(8, 1),
        "box_class": torch.tensor([0, 2] * 4),
        "box_row": torch.arange(4).repeat_interleave(2),
    }
    value = pointing_rows(output.cams, output.similarity_maps, batch, kept_KM=model.prototypes.kept_KM)
    hit, iou = SCORES.index("similarity_hit"), SCORES.index("similarity_iou")
    assert (value[:, 0, hit] == 1).all() and (value[:, 2, [hit, iou]] == 0).all(), "no map hits nothing"
    winner = np.array([[0, -1], [2, -1]])
    kept = np.array([[True, False, True], [False, False, False]])
    told = count_alive(winner, np.ones((2, 2)), kept_KM=kept, names=("a", "b"))
    assert (told["alive"], told["total"]) == (2, 2) and told["labels"]["b"]["wins"] == [0, 0, 0]


def test_a_dropped_prototype_is_not_high_in_a_box():
    sim = torch.full((1, 1, 2, 2, 2), -0.3)
    sim[:, :, 0] = 0.0
    edits = make_edits(torch.zeros(1, 1, dtype=torch.int64), box_R4=torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    high = torch.tensor([[0.0, 0.4]])  # the median of a dropped prototype is 0
    assert not check_safety(sim, edits, diagnose=lambda s: s[:, :, 0], high_KM=high).is_high_R.any()


@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="needs the extra onnx")
@pytest.mark.slow
def test_the_exported_graph_has_no_dropped_prototype_either(images, tmp_path):
    import onnxruntime

    dropped = dropping((0, 1), (2, 0))
    model = refined_model(dropped)
    from csr.model.sharing.onnx import export_onnx

    export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    logits, scores, *_ = session.run(None, {"image": images.numpy()})
    assert (scores[:, dropped.numpy()] == 0).all()
    np.testing.assert_allclose(logits, model(images).logits.detach().numpy(), atol=1e-4)


# the new head


def scores(seed: int, number: int) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(number, T, generator=generator).round()
    score = torch.rand(number, K * M, generator=generator) / 10
    score[:, :T] += target / 20
    target[0, 0] = torch.nan
    return Scores(score, target)


def stage_of(model: CSR) -> TaskStage:
    return TaskStage(model, loss="bce", pos_weight_T=torch.tensor([1.0, 3.0]), lr=0.05, weight_decay=0.01)


FIT = FitOptions(epochs=4, batch_size=7, clip=1.0, lr_factor=lambda step, total: 1 - step / total, seed=3)


def test_the_head_is_that_of_a_model_that_never_had_the_columns():
    keep_F = torch.ones(K * M)
    keep_F[[1, 5, 6, 11]] = 0.0
    train_scores, val_scores = scores(0, 40), scores(1, 20)
    stage = stage_of(tiny_model())
    fit = fit_head(
        stage, train_scores.without(keep_F), val_scores.without(keep_F), options=FIT, names=TARGETS
    )
    small = stage_of(CSR(1, T, 8, **OPTIONS))
    columns = keep_F > 0
    cut = [Scores(some.score_NF[:, columns], some.target_NT) for some in (train_scores, val_scores)]
    expected = fit_head(small, *cut, options=FIT, names=TARGETS)
    assert (fit.weight_TF[:, ~columns] == 0).all()
    torch.testing.assert_close(fit.weight_TF[:, columns], expected.weight_TF, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fit.bias_T, expected.bias_T, rtol=1e-4, atol=1e-4)
    assert (
        fit.epoch == expected.epoch == max(fit.history, key=lambda r: (r["val_auc"], -r["val_loss"]))["epoch"]
    )


def test_of_epochs_with_equal_auroc_the_one_with_the_lowest_validation_loss_is_taken():
    target = torch.arange(20).view(-1, 1).remainder(2).float().expand(20, T).contiguous()
    told_apart = Scores(target[:, :1] * 0.1 + torch.linspace(0.3, 0.31, K * M), target)
    fit = fit_head(stage_of(tiny_model()), told_apart, told_apart, options=FIT, names=TARGETS)
    assert {record["val_auc"] for record in fit.history} == {1.0}
    assert fit.epoch == min(fit.history, key=lambda record: record["val_loss"])["epoch"] > 1


def test_a_kept_head_says_what_the_old_one_says_of_dropped_scores_at_their_means():
    train_scores, model, keep_F = scores(0, 40), tiny_model(), torch.ones(K * M)
    keep_F[[1, 5, 6, 11]] = 0.0
    linear = model.task_head.linear
    fit = keep_head(linear.weight.detach(), linear.bias.detach(), train_scores.score_NF, keep_F)
    fixed = train_scores.score_NF.clone()
    for f in (1, 5, 6, 11):
        fixed[:, f] = train_scores.score_NF[:, f].mean()
    new = train_scores.without(keep_F).score_NF @ fit.weight_TF.T + fit.bias_T
    torch.testing.assert_close(new, linear(fixed).detach(), rtol=0, atol=1e-5)
    old = linear(train_scores.score_NF).detach()
    torch.testing.assert_close(new.mean(dim=0), old.mean(dim=0), rtol=0, atol=1e-5)
    assert (fit.weight_TF[:, keep_F == 0] == 0).all() and fit.epoch is None


# what is left of dropped prototypes


def by_ridge(x: np.ndarray, y: np.ndarray) -> float:
    """Cross-validated R^2 with the normal equations of a ridge regression of penalty 1, fold by fold."""
    predicted = np.zeros(len(y))
    for fit_rows, rows in KFold(5, shuffle=True, random_state=3).split(x):
        mean, sd = x[fit_rows].mean(axis=0), x[fit_rows].std(axis=0)
        z, centre = (x[fit_rows] - mean) / sd, y[fit_rows].mean()
        beta = np.linalg.solve(z.T @ z + np.eye(x.shape[1]), z.T @ (y[fit_rows] - centre))
        predicted[rows] = (x[rows] - mean) / sd @ beta + centre
    return 1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum()


def test_remaining_reliance_equals_a_ridge_regression_by_hand():
    rng = np.random.default_rng(0)
    score = rng.normal(0.4, 0.05, (60, K * M))
    score[:, 1] = score[:, 0] - 0.5 * score[:, 6] + rng.normal(0, 0.01, 60)  # nearly told by kept ones
    score[:, 9] = 0.0  # constant: nothing to tell
    kept, keep = ALL.copy(), ALL.copy()
    kept[1, 1] = keep[1, 1] = False  # dropped before
    keep[0, 1] = keep[2, 1] = keep[2, 2] = False
    found = remaining_reliance(score, kept_KM=kept, keep_KM=keep, seed=3)
    columns = [f for f in range(K * M) if keep.ravel()[f]]
    for (k, m), value in found.r2.items():
        y = score[:, k * M + m]
        assert value == pytest.approx(by_ridge(score[:, columns], (y - y.mean()) / y.std()), abs=1e-6)
    assert sorted(found.r2) == [(0, 1), (2, 2)] and found.r2[0, 1] > 0.8 and found.r2[2, 2] < 0.2
    told = found.to_dict(CONCEPTS)
    assert told["highest_r2"] == found.r2[0, 1] and told["median_r2"] == pytest.approx(
        np.mean(list(found.r2.values()))
    )
    assert set(told["r2"]["Cavity"]) == {"1"}
    assert "--head keep, or train again with more images" in reliance_lines(found, head="refit")[1]
    assert "--head keep" not in reliance_lines(found, head="keep")[1]
    low = dataclasses.replace(found, r2={(0, 0): 0.49})
    assert len(reliance_lines(low, head="refit")) == 1


def test_where_nothing_is_dropped_or_left_there_is_no_reliance():
    score = np.random.default_rng(0).normal(size=(30, K * M))
    assert remaining_reliance(score, kept_KM=ALL, keep_KM=ALL, seed=0) is None
    assert remaining_reliance(score[:4], kept_KM=ALL, keep_KM=~dropping((0, 0)).numpy(), seed=0) is None
    score[:, 1:] = 0.25  # what is left never changes
    assert remaining_reliance(score, kept_KM=ALL, keep_KM=~dropping((0, 0)).numpy(), seed=0).r2 == {
        (0, 0): 0.0
    }
    assert reliance_lines(None, head="refit") == []


def test_the_chosen_epoch_and_not_the_last_is_taken_and_the_standardisation_is_folded_in():
    train_scores, val_scores = scores(0, 40), scores(1, 20)
    model = tiny_model()
    fit = fit_head(stage_of(model), train_scores, val_scores, options=FIT, names=TARGETS)
    until = FitOptions(fit.epoch, FIT.batch_size, FIT.clip, lambda step, _: 1 - step / 24, FIT.seed)
    stage = stage_of(copy.deepcopy(model))
    fit_head(stage, train_scores, val_scores, options=until, names=TARGETS)
    standard = (val_scores.score_NF - train_scores.score_NF.mean(0)) / train_scores.score_NF.std(
        0, unbiased=False
    )
    raw = val_scores.score_NF @ fit.weight_TF.T + fit.bias_T
    torch.testing.assert_close(raw, stage.head(standard).detach(), rtol=1e-3, atol=1e-3)


# keep.csv


VECTORS = np.array([[f"v{k}{m}" for m in range(M)] for k in range(K)])


def read(path: Path, *, kept_KM: np.ndarray, names: tuple[str, ...] = CONCEPTS, say=print) -> np.ndarray:
    return read_keep(path, concept_names=names, kept_KM=kept_KM, vector_KM=VECTORS, say=say)


def keep_file(path: Path, *rows: str, header: str = "concept,prototype,keep,note") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def every_row(*rejected: tuple[int, int]) -> list[str]:
    return [f"{name},{m},{int((k, m) not in rejected)}," for k, name in enumerate(CONCEPTS) for m in range(M)]


def test_what_a_doctor_rejects_is_read_in_any_order_and_with_other_columns(tmp_path):
    rows = [f"x,{row}" for row in every_row((0, 1), (2, 3))]
    path = keep_file(tmp_path / "k.csv", *reversed(rows), header="mine,concept,prototype,keep,note")
    keep = read(path, kept_KM=ALL)
    assert np.argwhere(~keep).tolist() == [[0, 1], [2, 3]]


def test_a_concept_may_lose_all_its_prototypes_and_old_files_fit_refined_models(tmp_path):
    gone = [(1, m) for m in range(M)]
    path = keep_file(tmp_path / "k.csv", *every_row(*gone))
    assert not read(path, kept_KM=ALL)[1].any()
    assert not read(path, kept_KM=~dropping(*gone).numpy())[1].any()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[1:], "1 prototype.s. have no row .'Cavity' 0."),
        (lambda rows: [*rows, rows[3]], "line 14: prototype 3 of 'Cavity' is in line 5 too"),
        (lambda rows: [*rows, "Fever,0,1,"], "line 14: no concept 'Fever'"),
        (lambda rows: ["Cavity,4,1,", *rows], "line 2, column prototype: '4'.*prototypes 0 to 3"),
        (lambda rows: ["Cavity,-1,1,", *rows], "column prototype: '-1'"),
        (lambda rows: ["Cavity,1.0,1,", *rows], "column prototype"),
        (lambda rows: ["Cavity,0,yes,", *rows[1:]], "line 2, column keep: 'yes': write 1 .keep. or 0"),
        (lambda rows: ["Cavity,0,,", *rows[1:]], "column keep: ''"),
        (lambda rows: ["Cavity,0,1.0,", *rows[1:]], "column keep: '1.0'"),
        (lambda rows: ["Cavity,0,1", *rows[1:]], "line 2: 3 cells"),
        (lambda rows: rows[:-1] + [rows[-1].upper()], "line 13: no concept"),
        (lambda rows: [row.replace("Cavity,1,1", "Cavity,1,0") for row in rows], None),
    ],
)
def test_a_keep_csv_that_says_nothing_clear_is_refused_in_one_line(tmp_path, change, told):
    path = keep_file(tmp_path / "keep.csv", *change(every_row()))
    if told is None:
        assert not read(path, kept_KM=ALL)[0, 1]
        return
    with pytest.raises(InputError, match=told) as error:
        read(path, kept_KM=ALL)
    assert "keep.csv" in str(error.value) and "\n" not in str(error.value)


def test_other_files_and_prototypes_that_are_gone_are_refused(tmp_path):
    with pytest.raises(InputError, match="dropped before"):
        read(keep_file(tmp_path / "a.csv", *every_row()), kept_KM=~dropping((0, 0)).numpy())
    with pytest.raises(InputError, match="no column 'keep'"):
        read(keep_file(tmp_path / "b.csv", "Cavity,0", header="concept,prototype"), kept_KM=ALL)
    all_rejected = every_row(*np.ndindex(K, M))
    with pytest.raises(InputError, match="rejects every prototype"):
        read(keep_file(tmp_path / "c.csv", *all_rejected), kept_KM=ALL)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "gone.csv", kept_KM=ALL)


def test_what_an_atlas_writes_is_read_back_whatever_the_names(tmp_path):
    names = ('a "quoted", name', "<b>x</b>", "=cmd")
    record = {
        "wins": 3,
        "alive": True,
        "weights": {"T": {"weight": 0.5}},
        "top_target": "T",
        "hints": ["x, y"],
    }
    concepts = [
        {
            "name": name,
            "prototypes": [
                {"prototype": m, "vector": VECTORS[k, m], **record} for m in range(M) if (k, m) != (0, 2)
            ],
        }
        for k, name in enumerate(names)
    ]
    (tmp_path / "keep.csv").write_text(write_keep({"concepts": concepts}))
    kept = ~dropping((0, 2)).numpy()
    told: list[str] = []
    assert (
        read(tmp_path / "keep.csv", kept_KM=kept, names=names, say=told.append) == kept
    ).all() and not told


def test_a_file_of_another_model_is_refused_and_one_without_vectors_is_read_with_a_notice(tmp_path):
    def rows(change: dict[tuple[int, int], str], *rejected: tuple[int, int]) -> Path:
        cells = [
            f"{row}{change.get(place, VECTORS[place])}"
            for place, row in zip(np.ndindex(K, M), every_row(*rejected), strict=True)
        ]
        return keep_file(tmp_path / "keep.csv", *cells, header="concept,prototype,keep,vector")

    told: list[str] = []
    assert read(rows({}), kept_KM=ALL, say=told.append).all() and not told
    path = rows({(1, 2): "v99", (2, 0): "v98"}, (1, 2), (2, 0))
    with pytest.raises(
        InputError, match="keep.csv: belongs to another model.*'Nodule/Mass' 2; .*' 0.: run"
    ) as error:
        read(path, kept_KM=ALL)
    assert "\n" not in str(error.value)
    kept = ~dropping((1, 2), (2, 0)).numpy()
    assert (read(path, kept_KM=kept, say=told.append) == kept).all() and not told, (
        "dropped ones are not compared"
    )
    assert read(rows({(0, 1): ""}), kept_KM=ALL, say=told.append).all()
    assert read(keep_file(tmp_path / "keep.csv", *every_row()), kept_KM=ALL, say=told.append).all()
    assert [line.split(": ")[2].split()[0] for line in told] == ["1", "12"]
    assert all(line.startswith("Notice: ") for line in told)


# the command


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and test images with the tiny model's labels, and boxes on the test images."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(5)
    for split, number in (("train", 24), ("test", 10)):
        (folder / split).mkdir()
        rows, boxes = [], []
        for i in range(number):
            pixels = rng.integers(0, 256, (64, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{split}{i}.png")
            rows.append([f"{split}{i}", i % 2, i // 2 % 2, i % 3 // 2, i // 3 % 2, i % 2])
            boxes += [[f"{split}{i}", "Cavity", 0, 0, 32, 32]] if i % 2 else []
        tables = {
            "labels": [["image_id", *CONCEPTS, *TARGETS], *rows],
            "boxes": [["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"], *boxes],
        }
        for name, lines in tables.items():
            with open(folder / f"{name}_{split}.csv", "w", newline="") as file:
                csv.writer(file).writerows(lines)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "r", tiny_model())
    config = json.loads((folder / "config.json").read_text())
    files = {
        f"{part}_{kind}": str(data / (f"labels_{part}.csv" if kind == "csv" else part))
        for part in ("train", "test")
        for kind in ("csv", "dir")
    }
    config["options"]["data"] = {**files, "val_fraction": 0.25, "target_cols": list(TARGETS), "workers": 1}
    config["options"]["optim"] = {"epochs_stage3": 3, "lr": 1e-2}
    (folder / "config.json").write_text(json.dumps({**config, "effective_batch": 8}))
    return folder


@pytest.fixture(scope="module")
def refined(run, data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prototypes of Cavity and all of Nodule/Mass rejected."""
    folder = tmp_path_factory.mktemp("refined")
    rejected = [(0, 1), (0, 2), *((1, m) for m in range(M))]
    keep = keep_file(folder / "keep.csv", *every_row(*rejected))
    before = contents(run)
    words = [
        str(run),
        "--keep",
        str(keep),
        "--out",
        str(folder / "out"),
        "--workers",
        "1",
        "--bootstrap",
        "20",
    ]
    assert main([*words, "--boxes_csv", str(data / "boxes_test.csv")]) == 0
    assert contents(run) == before, "the run stays as it was"
    return folder / "out"


def test_the_refined_model_has_only_what_was_kept(refined, run):
    model = CSR.from_pretrained(refined)
    kept = ~dropping((0, 1), (0, 2), *((1, m) for m in range(M)))
    assert torch.equal(model.prototypes.kept_KM, kept)
    weight = model.task_head.linear.weight.unflatten(1, (K, M))
    assert (weight[:, ~kept] == 0).all() and (weight[:, kept] != 0).all()
    assert (model.card.reference.absent_KM[~kept] == 0).all()
    assert "Nodule/Mass" in model.card.provenance["refined"]["dropped"]
    state = torch.load(refined / "refined_model.pth", weights_only=True)
    old = torch.load(run / "best_model_stage3.pth", weights_only=True)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in old.items()}
    changed = {key for key in state if not torch.equal(state[key], old[key])}
    assert changed == {"prototypes.proto_KMD", "task_head.linear.weight", "task_head.linear.bias"}
    CSR(K, T, M, **OPTIONS).load_state_dict(state)


def test_before_and_after_are_what_evaluate_says_of_both_models(refined, run, data, tmp_path):
    told = json.loads((refined / "refine.json").read_text())
    for side, model in (("before", run), ("after", refined)):
        out = tmp_path / side
        words = ["--csv", str(data / "labels_test.csv"), "--dir", str(data / "test"), "--bootstrap", "20"]
        words += ["--boxes_csv", str(data / "boxes_test.csv"), "--workers", "1"]
        assert evaluate([str(model), *words, "--out", str(out)]) == 0
        found = json.loads((out / "evaluation.json").read_text())
        for part in ("targets", "localisation", "prototypes"):
            assert told[side][part] == found[part]
    assert told["after"]["prototypes"]["total"] == told["kept"] == 6
    assert told["dropped"] == {"Cavity": [1, 2], "Nodule/Mass": [0, 1, 2, 3]}
    assert len(told["fit"]["history"]) == 3 and told["head"] == "refit"
    assert set(told["remaining_reliance"]["r2"]) == {"Cavity", "Nodule/Mass"}


def test_the_head_can_be_kept(run, data, tmp_path, capsys):
    keep = keep_file(tmp_path / "keep.csv", *every_row((0, 1), *((1, m) for m in range(M))))
    words = [
        str(run),
        "--keep",
        str(keep),
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "1",
        "--bootstrap",
        "0",
    ]
    with pytest.raises(InputError, match="--epochs, --lr: with --head keep no head is fitted"):
        main([*words, "--head", "keep", "--epochs", "3", "--lr", "0.1"])
    assert main([*words, "--head", "keep"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "Head: kept",
        "Remaining reliance: kept scores",
        "have nothing in the column 'vector'",
        "its images count as misses in the pointing game",
    ):
        assert line in printed
    told = json.loads((tmp_path / "out" / "refine.json").read_text())
    assert told["head"] == "keep" and told["fit"] == {"epoch": None, "history": []}
    old, new = load_model(str(run)), CSR.from_pretrained(tmp_path / "out")
    kept = new.prototypes.kept_KM.flatten()
    assert torch.equal(new.task_head.linear.weight[:, kept], old.task_head.linear.weight[:, kept])
    assert (new.task_head.linear.weight[:, ~kept] == 0).all() and new.card.provenance["refined"][
        "head"
    ] == "keep"


def test_an_atlas_fits_its_model_and_refined_ones_and_no_other(refined, run, data, tmp_path):
    flags = [
        "--csv",
        str(data / "labels_train.csv"),
        "--dir",
        str(data / "train"),
        "--workers",
        "1",
        "--top",
        "1",
    ]
    made, other = tmp_path / "atlas", tmp_path / "other"
    assert atlas([str(run), *flags, "--out", str(made)]) == 0
    stranger = tiny_model()
    with torch.no_grad():
        stranger.prototypes.proto_KMD += 0.01
    stranger.save_pretrained(other)
    image = [str(data / "test" / "test1.png"), "--atlas", str(made)]
    assert explain([str(refined), *image, "--out", str(tmp_path / "a")]) == 0
    with pytest.raises(InputError, match="nearest.json: belongs to another model"):
        explain([str(other), *image, "--out", str(tmp_path / "b")])
    test = ["--test_csv", str(data / "labels_test.csv"), "--test_dir", str(data / "test"), "--bootstrap", "0"]
    with pytest.raises(InputError, match="keep.csv: belongs to another model"):
        main([str(other), "--keep", str(made / "keep.csv"), *flags[:-2], *test, "--out", str(tmp_path / "c")])


def test_every_command_takes_the_refined_folder(refined, data, tmp_path):
    image = str(data / "test" / "test1.png")
    flags = ["--csv", str(data / "labels_train.csv"), "--dir", str(data / "train"), "--workers", "1"]
    assert atlas([str(refined), *flags, "--out", str(tmp_path / "atlas"), "--top", "2"]) == 0
    told = json.loads((tmp_path / "atlas" / "atlas.json").read_text())
    assert [len(concept["prototypes"]) for concept in told["concepts"]] == [2, 0, 4]
    assert "dropped before: 0, 1, 2, 3" in (tmp_path / "atlas" / "concept_001.html").read_text()
    out = tmp_path / "explained"
    assert explain([str(refined), image, "--out", str(out), "--atlas", str(tmp_path / "atlas")]) == 0
    concept = json.loads((out / "explanation.json").read_text())["concepts"][1]
    assert concept["best_prototype"] is None and set(concept["contribution"].values()) == {0.0}
    assert predict([str(refined), image, "--out", str(tmp_path / "p.csv")]) == 0
    assert export([str(refined), str(tmp_path / "exported")]) == 0
    assert torch.equal(
        CSR.from_pretrained(tmp_path / "exported").prototypes.kept_KM,
        CSR.from_pretrained(refined).prototypes.kept_KM,
    )
    test = ["--test_csv", str(data / "labels_test.csv"), "--test_dir", str(data / "test"), "--bootstrap", "0"]
    again = [str(refined), "--keep", str(tmp_path / "atlas" / "keep.csv"), *flags, *test, "--epochs", "2"]
    assert main([*again, "--out", str(tmp_path / "twice")]) == 0


def test_scores_are_computed_once_for_every_keep_csv(refined, run, tmp_path, capsys):
    keep = keep_file(tmp_path / "keep.csv", *every_row((2, 2)))
    words = [
        str(run),
        "--keep",
        str(keep),
        "--workers",
        "1",
        "--bootstrap",
        "0",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "Scores (train): read from" in printed and "Scores (validation): read from" in printed
    assert "1 of 12 prototypes are dropped" in printed and "AUROC, macro" in printed


def test_the_model_itself_and_folders_in_use_are_not_written_to(run, refined, tmp_path):
    keep = str(keep_file(tmp_path / "keep.csv", *every_row((0, 0))))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for more, told in (
        (("--out", str(run), "--overwrite"), "the model itself"),
        (("--out", str(refined)), "not empty"),
        (("--out", str(tmp_path / "mine"), "--overwrite"), "holds other files than a refined model"),
        (("--epochs", "0"), "epochs"),
        (("--lr", "-1"), "--lr"),
        (("--checkpoint", "nothing.pth"), "no such"),
    ):
        with pytest.raises(InputError, match=told):
            main([str(run), "--keep", keep, *more])
    with pytest.raises(InputError, match="is no run: give its data"):
        main([str(refined), "--keep", str(refined / "keep.csv"), "--out", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists() and not run.with_name("r_refined").exists()


# a planted shortcut, from training to the repaired model


def corner_prototypes(atlas_json: Path) -> set[tuple[str, int]]:
    """Prototypes whose nearest training regions all peak where the mark is."""
    told = json.loads(atlas_json.read_text())
    return {
        (concept["name"], p["prototype"])
        for concept in told["concepts"]
        for p in concept["prototypes"]
        if p["nearest"] and all(max(one["peak"]) < 0.5 for one in p["nearest"])
    }


@torch.no_grad()
def moved_by_the_mark(model: CSR, folder: Path, scratch: Path) -> float:
    """How far a mark moves the diagnosis of clean test images, mean of the largest change of a probability."""
    card, changes = model.card, []
    for path in sorted((folder / "clean").iterdir()):
        Image.fromarray(add_mark(np.asarray(Image.open(path)))).save(scratch / "marked.png")
        pair = [
            resize_file(p, card.preprocessing.stored_size).pixels_CSS for p in (path, scratch / "marked.png")
        ]
        stored = torch.from_numpy(np.stack(pair))
        probability = card.probability(model(card.preprocessing.transform()(stored)).logits)
        changes.append(float((probability[1] - probability[0]).abs().max()))
    return float(np.mean(changes))


@pytest.mark.dist
@pytest.mark.slow
def test_a_planted_shortcut_is_found_in_the_atlas_and_what_is_left_of_it_is_told(tmp_path):
    data = write_marked(tmp_path / "data", num_train=NUM_TRAIN, num_test=60, size=128)
    done = train(
        *flags(data, tmp_path / "runs", "--no_restart", exp_name="m", **SHORTCUT_RUN), launcher="none"
    )
    assert done.returncode == 0, done.stderr
    run, keep = tmp_path / "runs" / "m", tmp_path / "atlas" / "keep.csv"
    assert atlas([str(run), "--out", str(tmp_path / "atlas"), "--workers", "1"]) == 0
    shortcuts = corner_prototypes(tmp_path / "atlas" / "atlas.json")
    assert shortcuts and {name for name, _ in shortcuts} == {"Disc"}, "the mark is on discs"
    assert len(shortcuts) < 6, "some prototypes of discs show discs"
    page = (tmp_path / "atlas" / "index.html").read_text()
    assert "at the same place in every image, at the edge" in page

    with open(keep, newline="") as file:
        rows = list(csv.reader(file))
    words = [str(run), "--workers", "1", "--boxes_csv", str(data / "boxes_test.csv"), "--bootstrap", "0"]
    assert main([*words, "--keep", str(keep), "--out", str(tmp_path / "same")]) == 0
    for row in rows[1:]:
        row[2] = "0" if (row[0], int(row[1])) in shortcuts else row[2]
    with open(keep, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    for head in ("refit", "keep", "occlude"):
        out = str(tmp_path / head)
        assert main([*words, "--keep", str(keep), "--head", head, "--out", out]) == 0

    before = CSR.from_pretrained(tmp_path / "same")
    trained = torch.load(run / "best_model_stage3.pth", weights_only=True)
    for name, value in before.state_dict().items():  # with nothing rejected stage 3 comes out as it was
        torch.testing.assert_close(value, trained[name], rtol=1e-3, atol=1e-2)
    # every image of the class bears the mark, so a head that is fitted again finds it in what is left
    refined = (CSR.from_pretrained(tmp_path / head) for head in ("refit", "keep", "occlude"))
    moved = [moved_by_the_mark(model, data, tmp_path) for model in (before, *refined)]
    assert moved[0] > 0.2 and moved[3] < 0.5 * moved[0], moved
    told = json.loads((tmp_path / "refit" / "refine.json").read_text())
    assert told["remaining_reliance"]["highest_r2"] > 0.5
    hit = {
        side: told[side]["localisation"]["macro"]["similarity_hit"]["value"] for side in ("before", "after")
    }
    assert hit["after"] >= hit["before"], hit

"""The head is what stage 3 would fit without the dropped columns, or the old one with their means."""

from __future__ import annotations

import copy

import torch
from tiny_model import OPTIONS, TARGETS, K, M, T, tiny_model

from csr.explain.refine.fit import FitOptions, Scores, fit_head, keep_head
from csr.model import CSR
from csr.stages.task import TaskStage


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
    separable = Scores(target[:, :1] * 0.1 + torch.linspace(0.3, 0.31, K * M), target)
    fit = fit_head(stage_of(tiny_model()), separable, separable, options=FIT, names=TARGETS)
    assert {record["val_auc"] for record in fit.history} == {1.0}
    assert fit.epoch == min(fit.history, key=lambda record: record["val_loss"])["epoch"] > 1


def test_a_kept_head_computes_what_the_old_one_computes_with_dropped_scores_at_their_means():
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

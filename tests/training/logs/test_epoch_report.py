"""The report of an epoch: curves of each label up to a number of labels, the record with all of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from csr.evaluation.metrics import multilabel_metrics
from csr.training.logs.epoch_report import MOST_SCALARS, by_label, report_epoch


class Monitor:
    def __init__(self):
        self.values, self.lines, self.records = {}, [], []

    def gathered(self, values, *, step):
        self.values |= values

    def say(self, line):
        self.lines.append(line)

    def epoch_line(self, record):
        self.records.append(record)

    def flush(self):
        pass


@pytest.mark.parametrize("labels, curves", [(MOST_SCALARS, MOST_SCALARS), (MOST_SCALARS + 1, 0)])
def test_labels_have_curves_up_to_a_number_and_are_all_in_the_record(labels, curves):
    rng, monitor = np.random.default_rng(0), Monitor()
    names = [f"c{i}" for i in range(labels)]
    label_NL = np.tile([[0.0], [1.0]], (4, labels)).astype(np.float32)
    metrics = multilabel_metrics(rng.random((8, labels)), label_NL, names=names)
    for epoch in (1, 2):
        record = {"train_loss": 1.0, "val_loss": 2.0, "seconds": 3.0, "metrics": metrics}
        report_epoch(
            monitor, SimpleNamespace(name="concept"), record, epoch=epoch, epochs=2, step=epoch, telemetry={}
        )
    assert sum(name.startswith("concept_auc/") for name in monitor.values) == curves
    assert monitor.values["concept_epoch/auc"] == metrics.auc
    assert list(monitor.records[0]["auc_by_label"]) == names
    assert sum("metrics.jsonl" in line for line in monitor.lines) == (curves == 0)


def test_values_of_each_label_are_named_below_their_tag_up_to_a_number():
    assert by_label("concept_pos_weight", {"a": 1.0, "b/c": 2.0}) == {
        "concept_pos_weight/a": 1.0,
        "concept_pos_weight/b/c": 2.0,
    }
    many = {f"c{i}": float(i) for i in range(MOST_SCALARS)}
    assert len(by_label("x", many)) == MOST_SCALARS
    assert by_label("x", {**many, "one more": 0.0}) == {}

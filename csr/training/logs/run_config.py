"""config.json of a run: all that rebuilds and identifies it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr.data.labels.summary import data_facts
from csr.data.transforms import stored_size
from csr.engine.ds_config import zero_stage_of
from csr.model.sharing.preprocessing import Preprocessing
from csr.runtime import distributed
from csr.runtime.fingerprint import git_revision, revision_of, versions
from csr.training.build import task_loss_of
from csr.training.prepared import Prepared


def run_config(prepared: Prepared) -> dict[str, Any]:
    """Return options, vocabulary, architecture, preprocessing and versions as plain JSON."""
    tables, identity, world = prepared.tables, prepared.identity, distributed.world_size()
    table, transform = tables.train, prepared.splits.eval_transform
    preprocessing = Preprocessing(
        transform.size,
        stored_size(transform.size),
        transform.mean,
        transform.std,
        prepared.config.data.resize,
    )
    return {
        "options": identity.options,
        "effective_batch": identity.effective_batch,
        "batch_size_auto": identity.batch_size_auto,  # reason for the choice; null: a number was given
        "concept_names": list(table.concept_names),
        "target_names": list(table.target_names),
        "data": data_facts(
            table, tables.test, train_indices=tables.train_indices, val_indices=tables.val_indices
        ),
        "training_fingerprint": tables.training_fingerprint(),
        "model": prepared.model.description(),
        "preprocessing": preprocessing.to_dict(),
        "task_loss": task_loss_of(prepared.config, table),
        "precision": prepared.precision._asdict(),
        "zero_stage": zero_stage_of(prepared.ds_config, world_size=world),
        "world_size": world,
        "versions": versions(),
        "git_revision": git_revision(),
        "code_revision": revision_of(Path.cwd()),  # of the user's git tree, if the run was started in one
    }

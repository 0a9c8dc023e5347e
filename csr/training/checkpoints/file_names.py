"""Names of the files that a run writes into its folder."""

from __future__ import annotations

from csr.evaluation.comparison import predictions
from csr.runtime.monitor import BOARD, METRICS
from csr.training.checkpoints import checkpoint_folder
from csr.training.logs import profiler
from csr.training.trackers import mlflow_tracker, record, wandb_tracker

CONFIG, RESULTS, LOCK = "config.json", "results.json", ".lock"

OUTPUTS = (
    "best_model_stage*.pth",
    "model_stage*_epoch*.pth",
    "final_model.pth",
    CONFIG,
    "deepspeed_config.json",
    "reference.json",
    METRICS,
    RESULTS,
    predictions.FILE_NAME,
    "quarantine.csv",
    record.PATTERN,
    ".*.tmp",
)

OUTPUT_FOLDERS = (
    BOARD,
    "logs",
    profiler.FOLDER,
    checkpoint_folder.FOLDER,
    mlflow_tracker.FOLDER,
    wandb_tracker.FOLDER,
)

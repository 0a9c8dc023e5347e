#!/usr/bin/env bash
# Quick start on Linux: train on all GPUs of this machine (2 processes where there is none).
# Flags go to csr.train: scripts/train.sh --train_csv my_train.csv --train_dir my_images/ --batch_size 32
# NUM_RANKS=4 scripts/train.sh ..      another number of processes on this machine
# HOSTFILE=hostfiles/two_nodes_of_4 scripts/train.sh ..      several machines: scripts/launch.sh
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
[ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -d "$here/.venv" ] && . "$here/.venv/bin/activate"
if ! command -v deepspeed >/dev/null; then
    echo "csr: error: deepspeed is not installed here: pip install -e $here" >&2
    exit 2
fi
gpus="$(python -c 'import torch; print(torch.cuda.device_count())')"
if [ -n "${HOSTFILE:-}" ]; then
    exec "$here/scripts/launch.sh" "$HOSTFILE" ${MASTER_PORT:+--master_port "$MASTER_PORT"} -- "$@"
elif [ "$gpus" -gt 0 ]; then
    launch=(--num_gpus "${NUM_RANKS:-$gpus}")
else
    export DS_ACCELERATOR=cpu
    launch=(--num_accelerators "${NUM_RANKS:-2}")
fi
port="${MASTER_PORT:-$((20000 + RANDOM % 20000))}"
exec deepspeed "${launch[@]}" --no_local_rank --master_port "$port" --module csr.train "$@"

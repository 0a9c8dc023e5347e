#!/usr/bin/env bash
# Train on several machines over ssh: check all hosts, start deepspeed on them, leave no process behind.
#   scripts/launch.sh hostfiles/two_nodes_of_4 -- --train_csv labels_train.csv --train_dir train/
#   scripts/launch.sh HOSTFILE --ssh_port 2222 -- ..      `csr launch --help` lists the rest
# Run it in the same folder and virtual environment that the hosts have, on one of them or on a machine
# beside them.
# Exit codes: 0 done, 1 failed, 2 bad input, 75 stopped by a signal: run the same command again.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
[ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -d "$here/.venv" ] && . "$here/.venv/bin/activate"
if ! command -v deepspeed >/dev/null; then
    echo "csr: error: deepspeed is not installed here: pip install -e $here" >&2
    exit 2
fi
exec python -m csr launch "$@"

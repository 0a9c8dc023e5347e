#!/usr/bin/env bash
# Style and types: what CI runs, in the same order.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test
python -m ruff format --check --diff csr tests scripts
python -m ruff check csr tests scripts
python -m mypy
for script in scripts/*.sh scripts/*.sbatch .ci/run; do bash -n "$script"; done
echo "ruff, mypy and bash -n: no complaints"

#!/usr/bin/env bash
# Install what the tests need and run them. Arguments go to pytest: scripts/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1
exec python -m pytest "$@"

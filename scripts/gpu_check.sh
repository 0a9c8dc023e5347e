#!/usr/bin/env bash
# Tests and benchmark of csr on this machine's GPU, with the card and versions, in one new folder.
# Usage: scripts/gpu_check.sh [FOLDER]          default: gpu-check-HOST-DATE
#        scripts/gpu_check.sh --needs           what this Python lacks for it, one line, for pip
#        scripts/gpu_check.sh --help
#   WHEELS=DIR  without network: install what lies there beside this Python's own packages
#   PYTHON=...  another Python; BENCH=no  tests alone; BENCH_ARGS="--sizes 16"  flags of scripts/bench/gpu.py
# A machine with torch, torchvision, timm, transformers and pandas usually lacks deepspeed, hjson and pydicom,
# and pydantic with its pydantic-core, annotated-types and typing-inspection; a barer one also einops, msgpack,
# ninja, py-cpuinfo, psutil, scikit-learn, scipy, tensorboard, threadpoolctl, jinja2 or pytest. The wheels are
# made where there is a network, for the same Python (here 3.12; deepspeed has no wheel, its ops are not built):
#   pip wheel --no-deps --no-build-isolation -w DIR deepspeed
#   pip download --no-deps --only-binary=:all: --python-version 3.12 -d DIR hjson pydicom pydantic ...
# Exit code: 0 all passed, 1 a test or the benchmark failed, 2 nothing could be run.
set -euo pipefail
fail() {
    echo "csr: error: $1" >&2
    exit 2
}
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="${1:-gpu-check-$(uname -n)-$(date +%Y%m%d-%H%M%S)}"
python="${PYTHON:-python3}"

case "${1:-}" in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --needs)
        exec "$python" "$here/scripts/gpu_versions.py" --needs
        ;;
    -*)
        fail "$1: give a folder, --needs or --help"
        ;;
esac
if ! cards="$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null)" ||
    [ -z "$cards" ]; then
    fail "no GPU: nvidia-smi is not there or lists none; run this where there is an NVIDIA card and driver"
fi
if [ -e "$folder" ]; then
    fail "$folder: is there already: give another folder"
fi
if [ -n "${WHEELS:-}" ]; then
    WHEELS="$(cd "$WHEELS" 2> /dev/null && pwd)" || fail "WHEELS: there is no such folder"
    ls "$WHEELS"/*.whl > /dev/null 2>&1 ||
        fail "WHEELS=$WHEELS: holds no *.whl: the head of this script says how to make them"
fi
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"

cd "$here"
export PYTHONPATH="$here"
if [ -n "${WHEELS:-}" ]; then
    # not into the machine's own packages: the folder goes, and with it what was installed
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
        --target "$folder/site" "$WHEELS"/*.whl
    export PYTHONPATH="$folder/site:$here"
else
    . scripts/environment.sh test
    python="python"
fi
export HF_HUB_OFFLINE=1 CSR_TEST_DEVICE=cuda DS_ACCELERATOR=cuda OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"

{
    echo "host      $(uname -n), $(uname -sr)"
    echo "date      $(date -u +%Y-%m-%dT%H:%M:%SZ)"
    echo "revision  $(git -C "$here" describe --always --dirty --abbrev=12 2> /dev/null || echo unknown)"
    echo "$cards" | sed 's/^/card      /'
    "$python" scripts/gpu_versions.py
} 2>&1 | tee "$folder/machine.txt" || fail "csr cannot use the GPU here: see the end of $folder/machine.txt"

code=0
echo "tests: $folder/tests.txt"
# these alone: others need packages that a bare machine lacks
tests="tests/gpu tests/engine tests/stages tests/data/test_random_draws.py tests/data/test_box_masks.py"
# shellcheck disable=SC2086  # several words, on purpose
"$python" -m pytest -m gpu -rs --durations=10 --junitxml "$folder/tests.xml" $tests \
    tests/data/test_transforms.py tests/training/features/test_feature_table.py > "$folder/tests.txt" 2>&1 || code=1
tail -n 3 "$folder/tests.txt"
if [ "${BENCH:-yes}" != no ]; then
    echo "benchmark: $folder/gpu.txt"
    # shellcheck disable=SC2086  # flags, split on purpose
    "$python" scripts/bench/gpu.py --results "$folder" ${BENCH_ARGS:-} > "$folder/bench.log" 2>&1 || code=1
    tail -n 3 "$folder/bench.log"
fi
rm -rf "$folder/site"
if [ "$code" = 0 ]; then
    echo "all passed: $folder"
else
    echo "csr: error: something failed: see $folder/tests.txt and $folder/bench.log" >&2
fi
exit "$code"

# A virtual environment with csr in it, sourced by the other scripts.
# Installs once, then only if setup.cfg has changed.
# Usage: . scripts/environment.sh [EXTRA]        EXTRA: test, dicom
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
extra="${1:-}"
python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "csr: error: Python 3.10 or later is needed; PYTHON=/path/to/python3 names another one" >&2
    exit 2
fi
if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
    if [ ! -x "$here/.venv/bin/python" ]; then
        echo "Making a virtual environment in $here/.venv"
        "$python" -m venv "$here/.venv"
    fi
    . "$here/.venv/bin/activate"
fi
# first line: which files of which clone; then one line for each extra that was installed from them
mark="$(python -c 'import sys; print(sys.prefix)')/.csr-installed"
want="$(cat "$here/setup.cfg" "$here/pyproject.toml" | cksum) $here"
had="$want"
if [ -f "$mark" ] && [ "$(head -n 1 "$mark")" = "$want" ]; then
    had="$(cat "$mark")"
fi
if ! grep -qxF "extra ${extra:-none}" <<< "$had"; then
    echo "Installing csr and what it needs (the first time this downloads PyTorch: a few minutes)"
    python -m pip install --quiet --disable-pip-version-check -e "$here${extra:+[$extra]}"
    printf '%s\nextra %s\n' "$had" "${extra:-none}" > "$mark"
fi

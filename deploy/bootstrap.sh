#!/bin/sh
# Makes .venv from requirements.lock, bringing uv along. Called by the Makefile, which repeats it when the lock changes.
#
# Needs a Python >= 3.11 and either pip, venv or a uv. Installs nothing outside this folder: a system Python that refuses
# `pip install` (PEP 668) accepts `--target`, and uv makes virtual environments without the python3-venv package.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'woolly: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

find_python() {
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            # An environment that happens to be active is not what .venv should lean on.
            "$python" -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)'
            return
        fi
    done
    return 1
}

find_uv() {
    for uv in .uv/bin/uv .uv/venv/bin/uv uv; do
        if "$uv" --version >/dev/null 2>&1; then
            echo "$uv"
            return
        fi
    done
    return 1
}

python=$(find_python) || die "no Python 3.11 or newer found (looked for ${PYTHON:-python3 and python3.11 to python3.14}); name one with PYTHON=/path/to/python"

if ! uv=$(find_uv); then
    say "fetching uv into .uv ..."
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    "$python" -m pip install --quiet --target .uv uv >"$log" 2>&1 ||
        { "$python" -m venv .uv/venv && .uv/venv/bin/python -m pip install --quiet uv; } >>"$log" 2>&1 ||
        { cat "$log" >&2; die "cannot get uv: install pip (for example: apt install python3-pip) or uv, see https://docs.astral.sh/uv/, and check that the package registry can be reached"; }
    uv=$(find_uv) || die "uv was installed into .uv but does not start"
fi

# A registry that only pip was told about serves uv as well.
if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
    index=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}
    if [ -n "$index" ]; then
        export UV_DEFAULT_INDEX="$index"
    fi
fi

[ -x .venv/bin/python ] || "$uv" venv --quiet --clear --python "$python" .venv
say "installing what requirements.lock pins into .venv ..."
"$uv" pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock ||
    die "the environment could not be installed; is the package registry reachable? (see the lines above)"
"$uv" pip install --quiet --python .venv/bin/python --no-deps --editable .

#!/usr/bin/env bash
# The Python package: built as a wheel with the sidecar in it, installed into a clean venv, and tested there against that
# sidecar: pytest, mypy --strict, stubtest. Running it again builds only what changed.
#
#   ci/python.sh                      the newest python3 on PATH
#   PYTHON=python3.13 ci/python.sh    another one, 3.11 or newer
#
# MACHNET names the sidecar's binary; else it is target/release/machnet, which `make build` makes.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

python="${PYTHON:-python3}"
work="$target_dir/python"
mkdir -p "$work"
work="$(cd "$work" && pwd)"

skip() { echo "SKIPPED $1" && exit 0; }
command -v "$python" >/dev/null 2>&1 || skip "$python is not installed"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || skip "$("$python" --version) is older than 3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null || skip "python3-venv is not installed"
version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"

machnet="${MACHNET:-$target_dir/release/machnet}"
[ -x "$machnet" ] || { echo "$machnet is missing: make build" >&2 && exit 1; }

# The tools, once for each version of their list.
tools="$work/tools-$version"
if ! cmp -s python/requirements.txt "$tools/installed"; then
    rm -rf "$tools"
    "$python" -m venv "$tools"
    "$tools/bin/pip" --disable-pip-version-check install --quiet --requirement python/requirements.txt ||
        skip "the tools of python/requirements.txt cannot be installed: no way to PyPI?"
    cp python/requirements.txt "$tools/installed"
fi

# The sidecar goes into the package, without what only a debugger reads.
mkdir -p python/machnet/bin
if ! strip -o python/machnet/bin/machnet "$machnet" 2>/dev/null; then
    cp "$machnet" python/machnet/bin/machnet
fi

rm -rf "$work/wheels"
(cd python && CARGO_TARGET_DIR="$work" "$tools/bin/maturin" build --quiet --release --locked --strip --compatibility linux \
    --interpreter "$tools/bin/python" --out "$work/wheels")
ls "$work"/wheels/*.whl

# A clean venv sees the wheel and the test tools, and never the sources: PYTHONSAFEPATH keeps the folder it runs in out of the way.
clean="$work/clean-$version"
[ -x "$clean/bin/python" ] || "$python" -m venv "$clean"
if ! cmp -s python/requirements.txt "$clean/installed"; then
    "$clean/bin/pip" --disable-pip-version-check install --quiet --requirement python/requirements.txt
    cp python/requirements.txt "$clean/installed"
fi
"$clean/bin/pip" --disable-pip-version-check install --quiet --no-deps --force-reinstall "$work"/wheels/*.whl
export PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 MYPY_CACHE_DIR="$work/mypy-$version"
unset MACHNET

"$clean/bin/python" -m mypy --config-file python/pyproject.toml --package machnet
(cd python && MYPYPATH=tests "$clean/bin/python" -m mypy tests/*.py examples/server.py examples/client.py examples/aio_server.py)
(cd python/conformance && "$clean/bin/python" -m mypy --config-file ../pyproject.toml ./*.py)
# Away from the sources, so that it compares what was installed.
(cd "$work" && "$clean/bin/python" -m mypy.stubtest machnet --ignore-unused-allowlist \
    --allowlist "$OLDPWD/python/stubtest-allowlist.txt")

"$clean/bin/python" -m pytest --quiet -p no:cacheprovider python/tests | tee "$work/pytest.log"
# As ci/test.sh counts.
awk '/ passed/ { for (i = 2; i <= NF; i++) if ($i ~ /^passed/) print "test result: ok. " $(i - 1) " passed; 0 failed" }' "$work/pytest.log" | tail -1

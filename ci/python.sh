#!/usr/bin/env bash
# The Python package: built as a wheel with the sidecar in it, installed into a clean venv, and tested there against that
# sidecar: pytest, mypy --strict, stubtest. Running it again builds only what changed.
#
#   ci/python.sh                      python3 for everything, and then the tests alone on every other Python that is here
#   PYTHON=python3.13 ci/python.sh    only this one, 3.11 or newer
#
# MACHNET names the sidecar's binary; else it is target/release/machnet, which `make build` makes. WHEEL names a wheel that was
# built before, such as one of ci/dist.sh: it is tested as it is.
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

if [ -n "${WHEEL:-}" ]; then
    wheel="$(realpath "$WHEEL")"
else
    machnet="${MACHNET:-$target_dir/release/machnet}"
    [ -x "$machnet" ] || { echo "$machnet is missing: make build" >&2 && exit 1; }
fi

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
build_wheel() {
    mkdir -p python/machnet/bin
    if ! strip -o python/machnet/bin/machnet "$machnet" 2>/dev/null; then
        cp "$machnet" python/machnet/bin/machnet
    fi
    rm -rf "$work/wheels"
    (cd python && CARGO_TARGET_DIR="$work" "$tools/bin/maturin" build --quiet --release --locked --strip --compatibility linux \
        --interpreter "$tools/bin/python" --out "$work/wheels")
    wheel="$(ls "$work"/wheels/*.whl)"
}
[ -n "${WHEEL:-}" ] || build_wheel
echo "$wheel"

# A clean venv sees the wheel and the test tools, and never the sources: PYTHONSAFEPATH keeps the folder it runs in out of the way.
clean="$work/clean-$version"
[ -x "$clean/bin/python" ] || "$python" -m venv "$clean"
if ! cmp -s python/requirements.txt "$clean/installed"; then
    "$clean/bin/pip" --disable-pip-version-check install --quiet --requirement python/requirements.txt
    cp python/requirements.txt "$clean/installed"
fi
"$clean/bin/pip" --disable-pip-version-check install --quiet --no-deps --force-reinstall "$wheel"
export PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 MYPY_CACHE_DIR="$work/mypy-$version"
unset MACHNET

"$clean/bin/python" -m mypy --config-file python/pyproject.toml --package machnet
(cd python && MYPYPATH=tests "$clean/bin/python" -m mypy tests/*.py elsewhere/*.py examples/server.py examples/client.py examples/aio_server.py)
(cd python/conformance && "$clean/bin/python" -m mypy --config-file ../pyproject.toml ./*.py)
# Away from the sources, so that it compares what was installed.
(cd "$work" && "$clean/bin/python" -m mypy.stubtest machnet --ignore-unused-allowlist \
    --allowlist "$OLDPWD/python/stubtest-allowlist.txt")


# As ci/test.sh counts.
counted() {
    tee "$work/pytest.log"
    awk '/ passed/ { for (i = 2; i <= NF; i++) if ($i ~ /^passed/) print "test result: ok. " $(i - 1) " passed; 0 failed" }' "$work/pytest.log" | tail -1
}
"$clean/bin/python" -m pytest --quiet -p no:cacheprovider python/tests | counted

# What pip installs on macOS and Windows: put in front of the other, it is what Python finds.
rm -rf "$work/elsewhere" "$work/any"
mkdir -p "$work/any"
any="$("$clean/bin/python" python/elsewhere/make_wheel.py "$wheel" "$work/any")"
"$clean/bin/pip" --disable-pip-version-check install --quiet --no-deps --target "$work/elsewhere" "$any"
PYTHONPATH="$work/elsewhere" "$clean/bin/python" -m pytest --quiet -p no:cacheprovider python/elsewhere | counted

[ -z "${PYTHON:-}" ] || exit 0
# The other Pythons, each with nothing but the wheel and pytest.
tested=" $version "
for other in $(compgen -c python3. | grep -xE 'python3\.[0-9]+' | sort -u) "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
    other_version="$("$other" -c 'import sys, venv, ensurepip; sys.version_info < (3, 11) or print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" || continue
    case "$tested" in *" ${other_version:-$version} "*) continue ;; esac
    tested="$tested$other_version "
    clean="$work/clean-$other_version"
    [ -x "$clean/bin/python" ] || "$other" -m venv "$clean"
    if ! cmp -s python/requirements.txt "$clean/installed"; then
        "$clean/bin/pip" --disable-pip-version-check install --quiet --requirement python/requirements.txt
        cp python/requirements.txt "$clean/installed"
    fi
    "$clean/bin/pip" --disable-pip-version-check install --quiet --no-deps --force-reinstall "$wheel"
    "$clean/bin/python" -m pytest --quiet -p no:cacheprovider python/tests | counted
done
echo "tested on Python$tested"

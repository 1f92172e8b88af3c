#!/usr/bin/env bash
# Builds the clients of `ci/bench.sh sdk` into target/sdk, each as an executable file of its language's name.
#   benches/sdk/build.sh             all
#   benches/sdk/build.sh c go        some
# Needs what `cargo build --release --workspace` leaves in target/release. A language whose tools are missing is skipped aloud.
set -euo pipefail
cd "$(dirname "$0")/../.."
. ci/common.sh

programs="${MACHNET_SDK_PROGRAMS:-$target_dir/sdk}"
mkdir -p "$programs"
programs="$(cd "$programs" && pwd)"
release="$(cd "$target_dir/release" && pwd)"
log="$programs/build.log"
library="$release/libmachnet.a"

skip() { echo "SKIPPED $1" && return 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# A script that starts a program with what stands before its arguments.
starter() {
    local language="$1"
    shift
    { echo '#!/bin/sh' && printf 'exec' && printf " '%s'" "$@" && echo ' "$@"'; } >"$programs/$language"
    chmod 0755 "$programs/$language"
}

build_c() {
    has cc || skip "c: there is no C compiler" || return 0
    cc -O2 -Wall -Wextra -Werror -o "$programs/c" benches/sdk/c/client.c -Iffi/include "$library" -lpthread -ldl -lm
}

# The package as ci/python.sh builds it, in a virtual environment of its own, and pyzmq beside it.
build_python() {
    local python="${PYTHON:-python3}" venv="$programs/python-venv" wheels="$programs/python-wheels"
    has "$python" && "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        skip "python: there is no Python of 3.11 or newer with venv" || return 0
    if ! cmp -s benches/sdk/python/requirements.txt "$venv/installed"; then
        rm -rf "$venv"
        "$python" -m venv "$venv"
        "$venv/bin/pip" --disable-pip-version-check install --quiet --requirement benches/sdk/python/requirements.txt >"$log" 2>&1 ||
            skip "python: benches/sdk/python/requirements.txt cannot be installed: no way to PyPI?" || return 0
        cp benches/sdk/python/requirements.txt "$venv/installed"
    fi
    rm -rf "$wheels"
    mkdir -p "$target_dir/python"
    (CARGO_TARGET_DIR="$(cd "$target_dir/python" && pwd)" && export CARGO_TARGET_DIR && cd python &&
        "$venv/bin/maturin" build --quiet --release --locked --strip --compatibility linux --interpreter "$venv/bin/python" \
            --out "$wheels")
    "$venv/bin/pip" --disable-pip-version-check install --quiet --no-deps --force-reinstall "$wheels"/*.whl
    starter python "$venv/bin/python" -P -B "$PWD/benches/sdk/python/client.py"
}

build_go() {
    has go || skip "go: Go is not installed" || return 0
    ci/go.sh prepare
    (cd benches/sdk/go && go build -o "$programs/go" .)
}

# The packages as npm would lay them, beside the client.
build_node() {
    [ -e node/Cargo.toml ] || skip "node: there is no node/ in this repository" || return 0
    has node || skip "node: Node.js is not installed" || return 0
    [ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || skip "node: Node.js $(node --version) is older than 20" || return 0
    [ "$(node -p 'process.platform + "-" + process.arch')" = linux-x64 ] || skip "node: not tried but on linux-x64" || return 0
    local client="$programs/node-client" platform=linux-x64-gnu
    mkdir -p "$target_dir/node"
    CARGO_TARGET_DIR="$target_dir/node" cargo build --quiet --release --locked --manifest-path node/Cargo.toml
    rm -rf "$client"
    mkdir -p "$client/node_modules/machnet" "$client/node_modules/@machnet/$platform"
    cp -r node/lib node/package.json "$client/node_modules/machnet"
    cp "node/npm/$platform/package.json" "$client/node_modules/@machnet/$platform"
    cp "$target_dir/node/release/libmachnet_node.so" "$client/node_modules/@machnet/$platform/machnet.node"
    cp benches/sdk/node/client.mjs "$client"
    starter node "$(command -v node)" "$client/client.mjs"
}

# With the SDK that ci/csharp.sh fetches.
build_csharp() {
    local work
    work="$(mkdir -p "$target_dir/sdk-csharp/native/linux-x64" && cd "$target_dir/sdk-csharp" && pwd)"
    . ci/dotnet.sh
    fetch_dotnet || skip "csharp: $dotnet_reason" || return 0
    cp "$release/libmachnet.so" "$work/native/linux-x64/"
    build build benches/sdk/csharp/Client.csproj -o "$work/client"
    starter csharp env DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 DOTNET_CLI_TELEMETRY_OPTOUT=1 "$dotnet_dir/dotnet" "$work/client/Client.dll"
}

[ -e "$library" ] || { echo "there is no $library: run \"make build\" first" >&2 && exit 1; }
[ $# -gt 0 ] || set -- c python go node csharp
for language in "$@"; do
    rm -f "${programs:?}/$language"
    case "$language" in
        c | python | go | node | csharp) "build_$language" ;;
        *) echo "there is no language '$language' here" >&2 && exit 2 ;;
    esac
done

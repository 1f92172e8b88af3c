#!/usr/bin/env bash
# Installs what the tests need and this machine lacks. Running it again changes nothing.
#
# Distribution packages are installed only when something is missing, and only as root or with a sudo that asks no
# password; otherwise the script says exactly what to install and fails. cargo-deny is built from crates.io, in a pinned
# version, into a cache outside the repository, so that a fresh clone finds it.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

# command:package, for Debian and Ubuntu.
needs=(cc:gcc c++:g++ make:make git:git pkg-config:pkg-config cmake:cmake valgrind:valgrind)
# Wanted, but no reason to fail: what needs it is skipped aloud.
wishes=(abidiff:abigail-tools ip:iproute2 setpriv:util-linux tshark:tshark ethtool:ethtool)

missing_commands=() missing_packages=()
for need in "${needs[@]}"; do
    if ! command -v "${need%%:*}" >/dev/null 2>&1; then
        missing_commands+=("${need%%:*}")
        missing_packages+=("${need##*:}")
    fi
done
# gcc without the C library's headers links nothing; Debian only recommends them.
if ! echo 'int main(void) { return 0; }' | cc -x c -o /dev/null -include stdio.h - >/dev/null 2>&1; then
    missing_commands+=("the headers of the C library")
    missing_packages+=(libc6-dev)
fi

install_packages() {
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    command -v apt-get >/dev/null 2>&1 || return 1
    export DEBIAN_FRONTEND=noninteractive
    "${as_root[@]}" apt-get install -y --no-install-recommends "$@" </dev/null && return 0
    # The package lists may be old or, in a fresh container, absent.
    "${as_root[@]}" apt-get update </dev/null &&
        "${as_root[@]}" apt-get install -y --no-install-recommends "$@" </dev/null
}

if [ ${#missing_packages[@]} -gt 0 ]; then
    echo "missing: ${missing_commands[*]}; installing ${missing_packages[*]}"
    if ! install_packages "${missing_packages[@]}"; then
        echo "could not install them; as root, run:" >&2
        echo "    apt-get install ${missing_packages[*]}" >&2
        exit 1
    fi
fi

for wish in "${wishes[@]}"; do
    if ! command -v "${wish%%:*}" >/dev/null 2>&1; then
        install_packages "${wish##*:}" || echo "could not install ${wish##*:}; what needs ${wish%%:*} will be skipped"
    fi
done

# DPDK's archives, for the plugin of driver dpdk.
if ! dpdk/build.sh --can >/dev/null; then
    install_packages libdpdk-dev || echo "could not install libdpdk-dev; the step dpdk will be skipped"
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing; install it with rustup: https://rustup.rs" >&2
    exit 1
fi
# With rustup, this fetches the toolchain that rust-toolchain.toml names, if it is not there.
cargo --version
for component in fmt clippy; do
    if ! cargo "$component" --version >/dev/null 2>&1; then
        echo "cargo $component is missing; run: rustup component add rustfmt clippy" >&2
        exit 1
    fi
done

# The registry's index and all crates once, so that no later step waits for the network.
cargo fetch --locked --quiet

if [ -x "$cargo_deny" ]; then
    "$cargo_deny" --version
elif [ "${NO_CARGO_DENY:-}" = 1 ]; then
    echo "cargo-deny is not installed: NO_CARGO_DENY=1"
else
    echo "building cargo-deny $cargo_deny_version into $tools_dir (once; some minutes)"
    # Unoptimised builds in a third of the time, and it runs for a second. Should it fail, the step that needs it says so.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-deny --version "$cargo_deny_version" --locked --debug --quiet \
        --no-default-features --root "${cargo_deny%/bin/cargo-deny}" </dev/null ||
        echo "cargo-deny could not be built; its step will be skipped"
fi

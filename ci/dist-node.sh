#!/usr/bin/env bash
# Packs the npm packages: the package `machnet`, and one for each platform with the addon and the sidecar.
#   ci/dist-node.sh FOLDER PLATFORM...     PLATFORM is x86_64 or aarch64; called by ci/dist.sh, after ci/portable.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

[ $# -ge 2 ] || { sed -n '2,/^set /{/^# \?/!d; s/^# \?//; p}' ci/dist-node.sh && exit 2; }
out="$(realpath "$1")"
shift
[ -e node/package.json ] || { echo "SKIPPED dist: node: there is no node/ yet" && exit 0; }
command -v npm >/dev/null 2>&1 || { echo "SKIPPED dist: node: npm is not installed" && exit 0; }
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# Runs no script of any package, asks no registry.
pack() { (cd "$1" && npm pack --silent --ignore-scripts --offline --pack-destination "$out" >/dev/null); }

for platform in "$@"; do
    case "$platform" in
        x86_64) name=linux-x64-gnu ;;
        aarch64) name=linux-arm64-gnu ;;
    esac
    environment="$(ci/portable.sh --environment "$platform")"
    (eval "$environment" && cargo zigbuild --quiet --release --locked --manifest-path node/Cargo.toml --target "$platform-unknown-linux-gnu.$oldest_glibc")
    mkdir "$work/$name"
    cp node/npm/$name/* LICENSE "$work/$name/"
    install -m 0644 "$target_dir/portable-build/$platform-unknown-linux-gnu/release/libmachnet_node.so" "$work/$name/machnet.node"
    install -m 0755 "$target_dir/portable/$platform/machnet" "$work/$name/machnet"
    pack "$work/$name"
done
# Without what npm installed for the tests.
mkdir "$work/machnet"
cp -r node/package.json node/README.md node/bin node/lib LICENSE "$work/machnet/"
pack "$work/machnet"

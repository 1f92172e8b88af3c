#!/usr/bin/env bash
# The Node.js packages: the main one and that of this platform, with the sidecar in it, packed, installed into an empty folder
# with `npm install --ignore-scripts`, and tested there. Running it again builds only what changed.
#
#   ci/node.sh
#
# MACHNET names the sidecar's binary; else it is target/release/machnet, which `make build` makes. MACHNET_STORM is how many
# receives of the cancel storm are aborted.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

root="$PWD"
work="$target_dir/node"
mkdir -p "$work"
work="$(cd "$work" && pwd)"

skip() { echo "SKIPPED $1" && exit 0; }
command -v node >/dev/null 2>&1 || skip "Node.js is not installed"
command -v npm >/dev/null 2>&1 || skip "npm is not installed"
[ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || skip "Node.js $(node --version) is older than 20"
case "$(node -p 'process.platform + "-" + process.arch')" in
    linux-x64) platform=linux-x64-gnu ;;
    linux-arm64) platform=linux-arm64-gnu ;;
    *) skip "there is no package for $(node -p 'process.platform + "-" + process.arch')" ;;
esac

machnet="${MACHNET:-$target_dir/release/machnet}"
[ -x "$machnet" ] || { echo "$machnet is missing: make build" >&2 && exit 1; }

(cd node && cargo fmt --check)
CARGO_TARGET_DIR="$work" cargo clippy --quiet --release --locked --manifest-path node/Cargo.toml -- -D warnings
CARGO_TARGET_DIR="$work" cargo build --quiet --release --locked --manifest-path node/Cargo.toml

# The package of this platform, without what only a debugger reads.
stage="$work/stage/$platform"
rm -rf "$work/stage" "$work/packages"
mkdir -p "$stage" "$work/packages"
cp "node/npm/$platform/package.json" "$stage"
cp "$work/release/libmachnet_node.so" "$stage/machnet.node"
cp "$machnet" "$stage/machnet"
strip "$stage/machnet" "$stage/machnet.node" 2>/dev/null || true
chmod 755 "$stage/machnet"
cp LICENSE "$stage/LICENSE"
cp -r node/bin node/lib node/package.json node/README.md LICENSE "$work/stage"
export npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false
for package in "$work/stage" "$stage"; do
    npm pack --silent --ignore-scripts --pack-destination "$work/packages" "$package" >/dev/null
done
ls "$work"/packages/*.tgz

# An empty folder outside of the sources. The main package's other platforms are optional, and not to be had.
clean="$(mktemp -d)"
trap 'rm -rf "$clean"' EXIT
(cd "$clean" && npm install --silent --ignore-scripts --no-package-lock --prefer-offline "$work"/packages/*.tgz) ||
    skip "npm install failed: no way to its registry?"
cp -r node/examples node/README.md "$clean"
cp README.md "$clean/README.project.md"
mkdir "$clean/tests"
cp node/tests/*.js node/tests/*.?ts node/tests/package.json node/tests/package-lock.json "$clean/tests"
(cd "$clean/tests" && npm ci --silent --ignore-scripts --prefer-offline) ||
    skip "the tools of node/tests/package-lock.json cannot be installed: no way to npm's registry?"

# For the agent of ci/conformance, which comes later.
rm -rf "$work/installed"
mkdir "$work/installed"
cp -r "$clean/node_modules" "$work/installed"

unset MACHNET
(cd "$clean" && "$clean/node_modules/.bin/machnet" --version)
cd "$clean/tests"
node --test --test-reporter=tap ./*.test.js >"$work/tests.tap" || {
    grep -vE '^ *(ok |---|\.\.\.|duration_ms|type:|#)' "$work/tests.tap" >&2
    cd "$root"
    exit 1
}
# As ci/test.sh counts.
awk '/^# pass / { passed = $3 } /^# fail / { failed = $3 } END { print "test result: ok. " passed " passed; " failed + 0 " failed" }' "$work/tests.tap"

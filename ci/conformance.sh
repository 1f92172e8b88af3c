#!/usr/bin/env bash
# The conformance suite of all SDKs: builds the agents that can be built here and runs every scenario, and the matrix of every language
# with every other. ci/conformance/README.md tells more.
#
#   ci/conformance.sh              all, as CI runs it: with one engine every language, with two and four one language each
#   ci/conformance.sh ARGS...      what ci/conformance/run.py takes: --agents python,go, --only stream, --storm 100000
#
# Stands on what `make build`, ci/python.sh, ci/go.sh and the steps of the other SDKs built: a language that is not there is skipped aloud.
# MACHNET names the sidecar's binary; else it is target/release/machnet.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

command -v python3 >/dev/null 2>&1 || { echo "SKIPPED conformance: python3 is not installed" && exit 0; }
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "SKIPPED conformance: $(python3 --version) is older than 3.10" && exit 0; }
[ -e "$target_dir/release/libmachnet.a" ] || { echo "there is no $target_dir/release/libmachnet.a: run \"make build\" first" && exit 1; }

agents="$target_dir/conformance"
mkdir -p "$agents"

cargo build --quiet --release --locked -p machnet-conformance

if command -v cc >/dev/null 2>&1; then
    cc -std=c11 -Wall -Wextra -pedantic -Werror -O2 -g -Iffi/include ffi/tests/c/conformance/agent.c -o "$agents/agent-c" \
        "$target_dir/release/libmachnet.a" -lpthread -ldl -lm
fi

# ci/go.sh says for which platforms there is a package.
if command -v go >/dev/null 2>&1 && ! ci/go.sh prepare | grep -q '^SKIPPED'; then
    output="$(cd "$agents" && pwd)/agent-go"
    (cd go && go build -o "$output" ./internal/conformance)
fi

if [ $# -gt 0 ]; then
    exec ci/conformance/run.py "$@"
fi

failed=0
ci/conformance/run.py || failed=1
# What an SDK sees does not depend on how many engines its sidecar has: so one language for each number is enough.
ci/conformance/run.py --engines 2 --agents rust --no-matrix || failed=1
ci/conformance/run.py --engines 4 --agents c --no-matrix || failed=1
exit $failed

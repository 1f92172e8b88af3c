#!/bin/sh
# Runs N seeds of the protocol simulator (engine/tests/sim) on all cores; 1,000 if N is not given.
#
#   ci/sim.sh 10000               ten thousand seeds from a random one on, which is printed
#   SIM_SEED=42 ci/sim.sh 1       exactly this seed
#   SIM_SEED=42 ci/sim.sh 1 --trace --kind loss
#
# On a violation: the seed, what was violated, the command that repeats it, and exit code 1.
set -eu
cd "$(dirname "$0")/.."
seeds="${1:-1000}"
[ $# -gt 0 ] && shift
cargo test --quiet --workspace --test sim -- --seeds "$seeds" --jobs "$(nproc)" "$@" || exit 1

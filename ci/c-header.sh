#!/bin/sh
# Compares the committed C headers with the ones that ffi/src makes, and compiles them as C11 and C++.
#   ci/c-header.sh            compare; fails and names the header if one differs
#   ci/c-header.sh --write    write them anew first
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
--write) MACHNET_WRITE_HEADER=1; export MACHNET_WRITE_HEADER ;;
"") ;;
*) echo "usage: ci/c-header.sh [--write]" >&2; exit 2 ;;
esac
# In this order: what was written is what gets compiled.
cargo test --quiet -p machnet-ffi --test header
cargo test --quiet -p machnet-ffi --test c_compiles
if [ -n "${MACHNET_WRITE_HEADER:-}" ]; then
    git --no-pager diff --stat -- ffi/include || true # Outside a checkout there is nothing to compare with.
fi

#!/usr/bin/env bash
# Compares the C ABI (functions, their types, every struct and constant) with the baseline in ffi/abi/.
#   ci/abi.sh            fails if anything went away or changed; new functions may come
#   ci/abi.sh --write    makes the present ABI the baseline
#
# The ABI is that of the header: Rust's debugging information does not have C's types. Each declaration gets an empty body, and the
# result is what abidw reads. That the header is that of the library, and the library exports all of it, is compared as well.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh
command -v abidiff >/dev/null 2>&1 || { echo "SKIPPED: abi: abidiff is not installed (Debian: abigail-tools)" && exit 0; }
[ "$(uname -m)" = x86_64 ] || { echo "SKIPPED: abi: the baseline is of x86_64" && exit 0; }
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

{
    echo '#include <machnet.h>'
    echo 'enum machnet_status machnet_abi_statuses;' # Functions answer int32_t, so that no other declaration names it.
    # Without comments, on one line, one declaration a line again.
    sed -n '/^extern "C" {/,/^}/p' ffi/include/machnet.h | sed '/^extern/d; /^#/d; /^}/d' |
        tr '\n' ' ' | sed 's|/\*[^*]*\*\+\([^/*][^*]*\*\+\)*/||g' | tr ';' '\n' |
        sed -n 's/^ *\([a-zA-Z].*(.*)\) *$/\1 { __builtin_trap(); }/p'
} >"$work/abi.c"
cc -g -O0 -fPIC -shared -w "-fdebug-prefix-map=$work=." "-fdebug-prefix-map=$PWD=." -I ffi/include "$work/abi.c" -Wl,-soname,libmachnet.so.0 -o "$work/libmachnet.so.0"

exported() { nm -D --defined-only "$1" | sed -n 's/.* T \(machnet_[a-z_]*\)$/\1/p' | sort; }
library="$target_dir/release/libmachnet.so"
[ -e "$library" ] || library="$target_dir/debug/libmachnet.so"
if [ -e "$library" ]; then
    diff <(exported "$work/libmachnet.so.0") <(exported "$library") || { echo "the header (<) and $library (>) differ" && exit 1; }
fi

if [ "${1:-}" = --write ]; then
    abidw --no-corpus-path --no-comp-dir-path --no-show-locs --out-file ffi/abi/libmachnet.abi "$work/libmachnet.so.0"
    echo "wrote ffi/abi/libmachnet.abi: $(exported "$work/libmachnet.so.0" | wc -l) functions"
    exit
fi
# What is new harms nobody and may come without a word; everything else has to be read, and then written.
abidiff --no-show-locs --no-added-syms ffi/abi/libmachnet.abi "$work/libmachnet.so.0" || {
    echo "the C ABI is not that of ffi/abi/libmachnet.abi; if old programs can live with it, run ci/abi.sh --write"
    exit 1
}
echo "$(exported "$work/libmachnet.so.0" | wc -l) functions as in ffi/abi/libmachnet.abi"

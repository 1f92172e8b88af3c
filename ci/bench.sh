#!/usr/bin/env bash
# Measures. `ci/bench.sh NAME` runs one bench, prints its table, and ends with a line for each of its figures:
#
#     FIGURE VALUE <= GOAL ok          FIGURE VALUE >= GOAL short
#
# It exits 0 when it could measure, whatever the verdict. `ci/bench.sh` alone runs every bench that there is and rewrites
# docs/performance.md. `ci/bench.sh --page` rewrites it from the outputs that are there, `ci/bench.sh --list` names the benches
# with their goals. What follows the name of a bench goes to its program: of some, the number of starts.
#
# A bench is the program benches/src/bin/NAME.rs. It prints what a reader wants to see and, for each of its figures, a line
# `figure: NAME VALUE`. The goals stand in ci/goals.txt and nowhere else. $MACHNET names the command that a bench may start.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

goals=ci/goals.txt
page=docs/performance.md
output="$target_dir/bench-output"
mkdir -p "$output"

names() { awk '!/^#/ { print $1 }' "$goals" | uniq; }
goals_of() { awk -v bench="$1" '$1 == bench { print $2, $3, $4 }' "$goals"; }
exists() { [ -e "benches/src/bin/$1.rs" ]; }

build() { cargo build --locked --quiet --release --workspace --bins; }

# iceoryx2, a peer of the bench `crossing`, is a package of its own with a lock file of its own: it brings many others.
build_iceoryx2() {
    if CARGO_TARGET_DIR="$target_dir" cargo build --locked --quiet --release --manifest-path benches/iceoryx2/Cargo.toml; then
        MACHNET_BENCH_ICEORYX2="$(realpath "$target_dir/release/machnet-bench-iceoryx2")"
        export MACHNET_BENCH_ICEORYX2
    else
        echo "benches/iceoryx2 cannot be built here: crossing goes without it" >&2
    fi
}

# The clients of the bench `sdk`, one program for each language. It says which cannot be built here, and goes without them.
build_sdk_clients() { MACHNET_SDK_PROGRAMS="$target_dir/sdk" benches/sdk/build.sh; }

# DPDK's plugin, for the bench `drivers`, which names what is missing and goes without it.
build_dpdk_plugin() {
    local said
    if said="$(dpdk/build.sh --out "$target_dir/dpdk" 2>&1)"; then
        MACHNET_DPDK_PLUGIN="$(realpath "$target_dir/dpdk/libmachnet_dpdk.so")"
        export MACHNET_DPDK_PLUGIN
    else
        echo "dpdk/build.sh: $(tail -n 1 <<<"$said")" >&2
    fi
}

# Turns the `figure:` lines of a bench's output into verdicts, in the order of the goals.
verdicts() {
    local figure sign goal value
    while read -r figure sign goal; do
        value="$(awk -v name="$figure" '$1 == "figure:" && $2 == name { print $3 }' "$output/$1.txt" | tail -n 1)"
        if [ -z "$value" ]; then
            echo "$figure: not measured on this machine"
        elif awk -v v="$value" -v g="$goal" -v s="$sign" 'BEGIN { exit !(s == "<=" ? v + 0 <= g + 0 : v + 0 >= g + 0) }'; then
            echo "$figure $value $sign $goal ok"
        else
            echo "$figure $value $sign $goal short"
        fi
    done < <(goals_of "$1")
}

run() {
    if ! exists "$1"; then
        echo "$1: not measured yet: there is no benches/src/bin/$1.rs"
        return 0
    fi
    echo "==== $1"
    [ "$1" != crossing ] || build_iceoryx2
    [ "$1" != sdk ] || build_sdk_clients || echo "some clients cannot be built here: sdk goes without them" >&2
    [ "$1" != drivers ] || build_dpdk_plugin
    MACHNET="$target_dir/release/machnet" "$target_dir/release/$1" "${@:2}" </dev/null | tee "$output/$1.txt"
    verdicts "$1" | tee "$output/$1.verdicts"
}

# The notes of a bench, written by hand: why a figure falls short, where the time goes, what was tried.
notes() {
    local file="benches/notes/$1.md"
    [ -e "$file" ] || return 0
    echo
    # One level of headings deeper than the page's own.
    sed 's/^#/###/' "$file"
}

write_page() {
    {
        echo "# Performance"
        echo
        echo "Written by \`ci/bench.sh\` from its output and from benches/notes; do not edit. Measured on $(nproc) processors"
        echo "($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)), Linux $(uname -r), by commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)."
        echo "Ratios travel between machines, nanoseconds do not; and on a small virtual machine ratios, too, differ by tens of per cent"
        echo "between runs. [measuring.md](measuring.md) tells how to repeat it and how to read it."
        echo
        echo "| figure | value | goal | verdict | command |"
        echo "|---|---|---|---|---|"
        local name figure value sign goal verdict
        for name in "$@"; do
            exists "$name" && [ -e "$output/$name.verdicts" ] || continue
            while read -r figure value sign goal verdict; do
                case "$value" in
                    not) echo "| $figure | not measured on this machine | | | \`ci/bench.sh $name\` |" ;;
                    *) echo "| $figure | $value | $sign $goal | $verdict | \`ci/bench.sh $name\` |" ;;
                esac
            done < <(sed 's/:\( not measured\)/\1/' "$output/$name.verdicts")
        done
        for name in "$@"; do
            exists "$name" && [ -e "$output/$name.verdicts" ] || continue
            echo
            echo "## $name"
            echo
            echo '```text'
            echo "\$ ci/bench.sh $name"
            grep -vE '^(figure|count): ' "$output/$name.txt" || true
            cat "$output/$name.verdicts"
            echo '```'
            notes "$name"
        done
        for name in benches/notes/*.md; do
            name="$(basename "$name" .md)"
            exists "$name" || { echo && sed 's/^#/##/' "benches/notes/$name.md"; }
        done
        echo
        echo "## Not measured yet"
        echo
        for name in "$@"; do
            exists "$name" || echo "- \`$name\`: $(goals_of "$name" | awk '{ printf "%s%s", separator, $1; separator = ", " }')"
        done
    } >"$page"
    echo "wrote $page"
}

case "${1:-}" in
    --page)
        # shellcheck disable=SC2046
        write_page $(names)
        ;;
    --list)
        for name in $(names); do
            exists "$name" && echo "$name" || echo "$name (not measured yet)"
            goals_of "$name" | sed 's/^/    /'
        done
        ;;
    "")
        build
        failed=() measured=0
        for name in $(names); do
            exists "$name" && measured=1
            run "$name" || failed+=("$name")
        done
        # shellcheck disable=SC2046
        [ "$measured" = 0 ] || write_page $(names)
        if [ ${#failed[@]} -gt 0 ]; then
            echo "could not measure: ${failed[*]}" >&2
            exit 1
        fi
        ;;
    *)
        if ! names | grep -qxF -- "$1"; then
            echo "there is no bench '$1'; the benches are: $(names | tr '\n' ' ')" >&2
            exit 2
        fi
        build
        run "$@"
        ;;
esac

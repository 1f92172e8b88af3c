#!/usr/bin/env bash
# Measures. `ci/bench.sh NAME` runs one bench, prints its table, and ends with a line for each of its figures:
#
#     FIGURE VALUE <= GOAL ok          FIGURE VALUE >= GOAL short
#
# It exits 0 when it could measure, whatever the verdict. `ci/bench.sh` alone runs every bench that there is and rewrites
# docs/performance.md. `ci/bench.sh --list` names them with their goals.
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
    MACHNET="$target_dir/release/machnet" "$target_dir/release/$1" </dev/null | tee "$output/$1.txt"
    verdicts "$1" | tee "$output/$1.verdicts"
}

write_page() {
    {
        echo "# Performance"
        echo
        echo "Written by \`ci/bench.sh\`; do not edit. Measured on $(nproc) processors"
        echo "($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)), Linux $(uname -r), by commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)."
        echo "Ratios travel between machines; nanoseconds do not."
        local name
        for name in "$@"; do
            echo
            echo "## $name"
            echo
            if [ -e "$output/$name.verdicts" ] && exists "$name"; then
                echo '```text'
                grep -vE '^(figure|count): ' "$output/$name.txt" || true
                cat "$output/$name.verdicts"
                echo '```'
            else
                echo "Not measured yet."
            fi
        done
    } >"$page"
    echo "wrote $page"
}

case "${1:-}" in
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
        run "$1"
        ;;
esac

#!/usr/bin/env bash
# Holds the instructions per message, stage by stage, against ci/instructions.txt: more than 3 % above it fails, so that no
# change makes the path longer unnoticed. `ci/instructions.sh --update` writes the counts of now.
#
# The counts are the same in every run of one program on one kind of processor; a copy may take a few instructions more on
# another kind, where the C library chooses another way.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

baseline=ci/instructions.txt
program="$target_dir/release/instructions"
# --workspace, so that dependencies have the features that every other build of the tests gives them.
cargo build --locked --quiet --release --workspace --bin instructions
counts="$("$program" </dev/null 2>/dev/null | sed -n 's/^count: //p')"
[ -n "$counts" ] || { echo "no instruction was counted: $program said nothing" && exit 1; }

if [ "${1:-}" = --update ]; then
    {
        echo "# Instructions per message of 64 bytes, or per request and response; see ci/instructions.sh."
        echo "$counts"
    } >"$baseline"
    echo "wrote $baseline"
    exit
fi

awk '
    FNR == NR { if (!/^#/) limit[$1] = $2 * 1.03; next }
    !($1 in limit) { print $1 ": not in ci/instructions.txt; run ci/instructions.sh --update"; bad = 1; next }
    { verdict = $2 <= limit[$1] ? "ok" : "GREW"; if (verdict != "ok") bad = 1
      printf "%-36s %9.1f, at most %9.1f %s\n", $1, $2, limit[$1], verdict; delete limit[$1] }
    END { for (name in limit) { print name ": was not counted"; bad = 1 }; exit bad }
' "$baseline" <(echo "$counts")

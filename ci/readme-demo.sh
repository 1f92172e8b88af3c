#!/usr/bin/env bash
# Puts the output of a real `machnet demo` of this machine into README.md, between <!-- demo-output --> and
# <!-- /demo-output -->.
#
#   ci/readme-demo.sh            builds and runs `make demo`
#   ci/readme-demo.sh FILE       takes a run that was kept before, for example by: make demo | tee FILE
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

run="${1:-}"
if [ -z "$run" ]; then
    mkdir -p "$target_dir"
    run="$target_dir/demo-output.txt"
    make --no-print-directory -s demo </dev/null >"$run"
fi
[ -s "$run" ] || { echo "$run is empty" >&2 && exit 1; }
# What is quoted must be a page of text, not a terminal's colours or a progress bar.
clean="$(mktemp)"
trap 'rm -f "$clean" "$clean.md"' EXIT
sed -e 's/\x1b\[[0-9;?]*[a-zA-Z]//g' -e 's/.*\r//' -e 's/[[:space:]]*$//' "$run" >"$clean"

awk -v run="$clean" '
    /^<!-- demo-output -->$/ {
        print; print "```text"
        while ((getline line < run) > 0) print line
        print "```"
        inside = 1; found = 1; next
    }
    /^<!-- \/demo-output -->$/ { inside = 0 }
    !inside
    END { exit !found || inside }
' README.md >"$clean.md" || { echo "README.md lacks the two demo-output marks" >&2 && exit 1; }
cat "$clean.md" >README.md
echo "README.md now quotes $run"

#!/usr/bin/env bash
# Puts the output of a real `machnet demo` of this machine into README.md, between <!-- demo-output --> and
# <!-- /demo-output -->. Sentences with words of specialists, which README.md explains only in "How it works", go there,
# between <!-- demo-drivers --> and <!-- /demo-drivers -->. Nothing is left out.
#
#   ci/readme-demo.sh            builds and runs `make demo`
#   ci/readme-demo.sh FILE       takes a run that was kept before, for example by: make demo >FILE
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
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

# What is quoted must be a page of text, not a terminal's colours or a progress line. A sentence begins with "* " and goes on
# in lines that begin with spaces.
: >"$folder/plain"
: >"$folder/special"
sed -e 's/\x1b\[[0-9;?]*[a-zA-Z]//g' -e 's/.*\r//' -e 's/[[:space:]]*$//' "$run" | awk -v folder="$folder" '
    function put() {
        if (part == "") return
        is_special = tolower(part) ~ /kernel.bypass|dpdk|huge ?page/ || part ~ /(^|[^A-Za-z])RSS([^A-Za-z]|$)/
        printf "%s", part > (folder "/" (is_special ? "special" : "plain"))
        part = ""
    }
    !/^  / || !in_sentence { put(); in_sentence = /^\* / }
    { part = part $0 "\n" }
    END { put() }
'

awk -v folder="$folder" '
    function quote(name, line) {
        print; print "```text"
        while ((getline line < (folder "/" name)) > 0) print line
        print "```"
        inside = 1; found++
    }
    /^<!-- demo-output -->$/ { quote("plain"); next }
    /^<!-- demo-drivers -->$/ { quote("special"); next }
    /^<!-- \/demo-(output|drivers) -->$/ { inside = 0 }
    !inside
    END { exit found != 2 || inside }
' README.md >"$folder/README.md" || { echo "README.md lacks the marks of demo-output or demo-drivers" >&2 && exit 1; }
cat "$folder/README.md" >README.md
echo "README.md now quotes $run"

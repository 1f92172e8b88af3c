#!/usr/bin/env bash
# Tests the drivers of frames on veth pairs in network namespaces of their own: once with the rights that this user has, and driver
# packet once more as an ordinary user without any, in a user namespace (unshare -Urn). tshark reads back what goes out. Needs the
# commands ip, unshare and setpriv; says "SKIPPED drivers: ..." of what it cannot do.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

tests=(driver_conformance packet_driver drivers cli_drivers)
skip() { echo "SKIPPED drivers: $*"; }

for needed in ip unshare; do
    command -v "$needed" >/dev/null 2>&1 || { skip "the command $needed is not installed" && exit; }
done

arguments=()
for name in "${tests[@]}"; do arguments+=(--test "$name"); done
built="$(cargo test --locked -p machnet-engine "${arguments[@]}" --no-run 2>&1)" || { echo "$built" && exit 1; }

# "tests/NAME.rs (PATH)" of cargo's lines.
program_of() { sed -n "s|^ *Executable tests/$1.rs (\(.*\))\$|\1|p" <<<"$built"; }

# A test that cannot run says so in its output, and passes.
run_test() {
    local name="$1" out
    shift
    out="$(cd engine && "$@" 2>&1)" || { echo "$out" && return 1; }
    sed -n "s/^SKIPPED: \(.*\)/SKIPPED drivers: $name: \1/p" <<<"$out" | sort -u
    grep '^test result:' <<<"$out"
}

# The names of the rows of the conformance suite that are on an interface.
rows=(packet xdp)

as_it_is() {
    local prefix=() name program words
    if [ "$(id -u)" != 0 ]; then
        prefix=(unshare -Urn)
        "${prefix[@]}" true 2>/dev/null || { skip "this user may make no namespaces (unshare -Urn)" && return; }
    fi
    for name in "${tests[@]}"; do
        program="$PWD/$(program_of "$name")"
        words=(--show-output)
        [ "$name" = driver_conformance ] && words+=("${rows[@]}")
        run_test "$name" "${prefix[@]}" "$program" "${words[@]}"
    done
}

# Driver packet for a user without rights, in a network of its own. Root becomes such a user first.
as_an_ordinary_user() {
    local folder prefix=() name
    [ "$(id -u)" = 0 ] || return 0
    command -v setpriv >/dev/null 2>&1 || { skip "as an ordinary user: the command setpriv is not installed" && return; }
    prefix=(setpriv --reuid=65534 --regid=65534 --clear-groups unshare -Urn)
    "${prefix[@]}" true 2>/dev/null || { skip "an ordinary user may make no namespaces here (unshare -Urn)" && return; }
    # Where such a user can read it.
    folder="$(mktemp -d)"
    # shellcheck disable=SC2064
    trap "rm -rf '$folder'" EXIT
    chmod 755 "$folder"
    for name in driver_conformance packet_driver drivers; do
        cp "$(program_of "$name")" "$folder/$name"
    done
    run_user() { run_test "$1 as an ordinary user" env TMPDIR=/tmp HOME=/nonexistent "${prefix[@]}" "$folder/$1" --show-output "${@:2}"; }
    run_user driver_conformance packet
    run_user packet_driver
    run_user drivers --skip xdp --skip independent_reader
}

as_it_is
as_an_ordinary_user

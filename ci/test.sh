#!/usr/bin/env bash
# Everything that must hold before a change is good: `make test` for a developer, `.ci/run` for CI.
#
#   ci/test.sh              all steps, cheapest first
#   ci/test.sh fmt loom     only these
#   ci/test.sh --list       their names
#
# A step that fails does not keep the others from running, but the exit code is then 1. The last line counts tests (a step
# that runs none counts as one): N passed, N failed, N skipped. Whatever was skipped is named with its reason before it.
#
# Knobs: SIM_RUNS (seeds of the simulator), SIM_SEED (its first), HOSTILE_ROUNDS, DIST_PLATFORMS, CLEAN_ROOTS, CARGO_TARGET_DIR, CI_TOOLS_DIR.
set -uo pipefail
{ # Read whole before it runs, so that it may be edited meanwhile.
cd "$(dirname "$0")/.."
. ci/common.sh

sim_runs="${SIM_RUNS:-10000}"
hostile_rounds="${HOSTILE_ROUNDS:-10000}"

logs="$target_dir/ci-logs"
mkdir -p "$logs"

# ---- the steps: cheapest first; each reuses what the ones before it built -----------------------------------------------
#
# Always --workspace, never -p: cargo chooses the features of dependencies by what it is asked to build, so that one package
# alone would be built a second time, with everything below it.

steps=(setup scripts fmt versions clippy docs deny tests drivers dpdk doctests c-header loom hostile sim release dist container python node go csharp conformance clean-root qemu instructions)

step_setup() { ci/setup.sh; }

step_scripts() {
    local script
    for script in ci/*.sh dpdk/*.sh .ci/run; do
        bash -n "$script" || return 1
        [ -x "$script" ] || [ "$script" = ci/common.sh ] || { echo "$script is not executable" && return 1; }
    done
    command -v shellcheck >/dev/null 2>&1 || return 0
    shellcheck --external-sources --severity=warning ci/*.sh dpdk/*.sh .ci/run
}

step_fmt() { cargo fmt --all -- --check; }

step_versions() { run_script ci/versions.sh; }

step_clippy() { cargo clippy --locked --workspace --all-targets --keep-going -- -D warnings; }

step_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --lib; }

step_deny() {
    [ -x "$cargo_deny" ] || { skip "cargo-deny $cargo_deny_version is not installed; ci/setup.sh says why" && return; }
    local checks=(bans licenses sources)
    # The advisory database is a git repository on GitHub: it is fetched where that can be reached, and else missed aloud.
    if GIT_TERMINAL_PROMPT=0 timeout 10 git ls-remote -q https://github.com/rustsec/advisory-db HEAD >/dev/null 2>&1; then
        checks+=(advisories)
    else
        also_skipped "deny: advisories: the database (https://github.com/rustsec/advisory-db) cannot be reached from here"
    fi
    "$cargo_deny" --workspace --locked check --hide-inclusion-graph "${checks[@]}" || return 1
    # Packages with a lock file of their own.
    local manifest
    for manifest in python/Cargo.toml node/Cargo.toml csharp/*/Cargo.toml; do
        [ -e "${manifest%.toml}.lock" ] || continue
        echo "$manifest"
        "$cargo_deny" --manifest-path "$manifest" --locked --config deny.toml check --hide-inclusion-graph "${checks[@]}" || return 1
    done
}

# The output of tests that pass goes to the log, where a line "SKIPPED: reason" tells that one could not run here.
step_tests() {
    cargo test --locked --workspace --no-fail-fast --lib --bins --tests --examples -- --show-output
}

# Those tests that need the plugin of driver dpdk, and the machine to themselves.
step_dpdk() {
    local reason
    run_script ci/dpdk.sh | tee "$logs/dpdk.out" || return 1
    reason="$(sed -n 's/^SKIPPED //p' "$logs/dpdk.out" | head -1)"
    [ -z "$reason" ] || skip "$reason"
}

# On real interfaces, in namespaces of their own.
step_drivers() { run_and_list_skips drivers; }

step_doctests() { cargo test --locked --workspace --no-fail-fast --doc; }

step_c-header() { run_script ci/c-header.sh; }

step_loom() {
    # Loom's atomics work only inside a model, so this build has its own folder and runs the models alone.
    [ -e shim-core/src/shm/models.rs ] || { skip "there is no shim-core/src/shm/models.rs yet" && return; }
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$target_dir/loom" \
        cargo test --locked -p machnet-client --lib loom
}

step_hostile() {
    [ -e engine/tests/hostile.rs ] || { skip "there is no engine/tests/hostile.rs yet" && return; }
    # The tests step ran a few rounds; these are the full number.
    HOSTILE_ROUNDS="$hostile_rounds" cargo test --locked --workspace --test hostile -- --nocapture
}

step_sim() { run_script ci/sim.sh "$sim_runs"; }

# What a person builds and installs, without asking for any of it twice: README.md's commands stand here as they stand there.
step_release() {
    make build || return 1
    local root="$PWD/$target_dir/install-root" file
    [ "${target_dir#/}" != "$target_dir" ] && root="$target_dir/install-root"
    rm -rf "$root"
    make --no-print-directory install DESTDIR="$root" || return 1
    for file in bin/machnet lib/libmachnet.so lib/libmachnet.so.0 lib/libmachnet.a include/machnet.h lib/pkgconfig/machnet.pc; do
        [ -s "$root/usr/local/$file" ] || { echo "make install did not install $file" && return 1; }
    done
    "$root/usr/local/bin/machnet" --version || return 1
    ci/c-package.sh "$root/usr/local" || return 1
    ci/abi.sh || return 1
    for file in abidiff pkg-config cmake; do
        command -v "$file" >/dev/null 2>&1 || also_skipped "release: what needs $file, which is not installed; ci/setup.sh says why"
    done
    make --no-print-directory uninstall DESTDIR="$root" || return 1
    [ -z "$(find "$root" ! -type d)" ] || { find "$root" ! -type d && echo "make uninstall left these" && return 1; }
}

# Everything that a release consists of. DIST_PLATFORMS names fewer platforms.
step_dist() {
    local line
    # shellcheck disable=SC2086
    run_script ci/dist.sh ${DIST_PLATFORMS:-x86_64 aarch64} | tee "$logs/dist.out" || return 1
    while read -r line; do also_skipped "$line"; done < <(sed -n 's/^SKIPPED //p' "$logs/dist.out")
}

# After `dist`, which builds the same programs.
step_container() { run_and_list_skips container; }

# After the release build, whose sidecar the package brings; or with the package of the step `dist`, if that ran too.
step_python() {
    local reason wheel
    wheel="$(find "$target_dir/dist/python" -name "*_$(uname -m).whl" 2>/dev/null | head -n 1)"
    case " ${CI_STEPS:-} " in *" dist "*) [ -z "$wheel" ] || export WHEEL="$wheel" ;; esac
    run_script ci/python.sh | tee "$logs/python.out" || return 1
    reason="$(sed -n 's/^SKIPPED //p' "$logs/python.out" | head -1)"
    [ -z "$reason" ] || skip "$reason"
}

# After the release build, whose sidecar the packages bring.
step_node() {
    local reason
    run_script ci/node.sh | tee "$logs/node.out" || return 1
    reason="$(sed -n 's/^SKIPPED //p' "$logs/node.out" | head -1)"
    [ -z "$reason" ] || skip "$reason"
}

# After the release build, whose library it links.
step_go() {
    command -v go >/dev/null 2>&1 || { skip "Go is not installed" && return; }
    run_script ci/go.sh
}

# After the release build, whose library and sidecar its packages bring.
step_csharp() {
    local reason
    run_script ci/csharp.sh | tee "$logs/csharp.out" || return 1
    reason="$(sed -n 's/^SKIPPED //p' "$logs/csharp.out" | head -1)"
    [ -z "$reason" ] || skip "$reason"
}

# After the SDKs' own steps, whose packages its agents use.
step_conformance() {
    local line
    run_script ci/conformance.sh | tee "$logs/conformance.out" || return 1
    while read -r line; do also_skipped "$line"; done < <(sed -n 's/^SKIPPED //p' "$logs/conformance.out")
}

# After the step `dist`, whose packages it installs. CLEAN_ROOTS names the languages.
step_clean-root() {
    # shellcheck disable=SC2086
    run_and_list_skips clean-root ${CLEAN_ROOTS:-}
}

# After the step `dist`, whose packages for the other processor it runs.
step_qemu() { run_and_list_skips qemu; }

# After the release build, whose programs it counts.
step_instructions() {
    command -v valgrind >/dev/null 2>&1 || { skip "valgrind is not installed; ci/setup.sh says why" && return; }
    run_script ci/instructions.sh
}

# Upper bounds against hangs, in seconds, far above what a step takes on two slow cores.
limit_of() {
    case "$1" in
        setup | tests | sim | release | dist) echo 1500 ;;
        clippy | docs | drivers | doctests | dpdk | loom | hostile | python | node | csharp | conformance | clean-root | qemu) echo 900 ;;
        *) echo 300 ;;
    esac
}

# ---- running them -------------------------------------------------------------------------------------------------------

skip() { echo "$1" >"$logs/$step.skip"; }
also_skipped() { echo "SKIPPED $1" && echo "$1" >>"$logs/also-skipped"; }
run_script() {
    [ -x "$1" ] || { skip "there is no $1 yet" && return; }
    "$@"
}

# Runs ci/NAME.sh, which says "SKIPPED NAME: reason" of what it cannot do. If it can do nothing, the step was skipped.
run_and_list_skips() {
    local name="$1" line
    run_script "ci/$name.sh" "${@:2}" | tee "$logs/$name.out" || return 1
    if ! grep '^test result: .* [1-9][0-9]* ' "$logs/$name.out" >/dev/null; then
        skip "$(sed -n "s/^SKIPPED $name: //p" "$logs/$name.out" | tr '\n' ' ')" && return
    fi
    while read -r line; do also_skipped "$line"; done < <(sed -n 's/^SKIPPED //p' "$logs/$name.out")
}

# One step in a process of its own, so that a limit can end it with everything that it started.
if [ "${1:-}" = --one ]; then
    step="$2"
    "step_$step"
    exit
fi
if [ "${1:-}" = --list ]; then
    printf '%s\n' "${steps[@]}"
    exit
fi
for name in "$@"; do
    case " ${steps[*]} " in
        *" $name "*) ;;
        *) echo "there is no step '$name'; the steps are: ${steps[*]}" >&2 && exit 2 ;;
    esac
done
[ $# -gt 0 ] && steps=("$@")
export CI_STEPS="${steps[*]}"

# Adds up the counts of all "test result:" lines of a log into found_passed and found_failed.
count_tests() {
    read -r found_passed found_failed < <(
        sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '/^test result: / {
            for (i = 1; i < NF; i++) {
                if ($(i + 1) ~ /^passed/) passed += $i
                if ($(i + 1) ~ /^failed/) failed += $i
            }
        } END { print passed + 0, failed + 0 }'
    )
}

# What the tests that passed wrote is left out on the terminal; the log has it.
without_successes() { awk '/^successes:$/ { quiet = 1 } /^(failures:|test result:)/ { quiet = 0 } !quiet { print; fflush() }'; }

# "name: reason" for each test of a log that said at run time that it could not run, and for each that is marked ignored,
# but for the halves of tests that another test runs in a process of their own.
skipped_at_run_time() {
    awk '/^---- .* std(out|err) ----$/ { name = $2 } /^SKIPPED: / && name != "" { sub(/^SKIPPED: /, ""); print name ": " $0; name = "" }' "$1"
}
ignored_tests() {
    sed -n 's/^test \(.*\) \.\.\. ignored\(, \)\?\(.*\)$/\1: \3/p' "$1" | sed 's/: $/: marked ignored without a reason/' |
        grep -vE ': (run by |the other half of a test)' || true
}

passed=0 failed=0 skipped=0
summary=() failures=() skips=()
rm -f "$logs/also-skipped"
for step in "${steps[@]}"; do
    echo
    echo "==== $step"
    rm -f "$logs/$step.skip"
    began=$SECONDS
    timeout --kill-after=10 "$(limit_of "$step")" ci/test.sh --one "$step" </dev/null 2>&1 | tee "$logs/$step.log" | without_successes
    code=${PIPESTATUS[0]}
    took="$((SECONDS - began)) s"
    count_tests "$logs/$step.log"
    passed=$((passed + found_passed)) failed=$((failed + found_failed))
    while read -r line; do
        skipped=$((skipped + 1))
        skips+=("$step: $line")
    done < <(ignored_tests "$logs/$step.log")
    while read -r line; do
        passed=$((passed - 1)) skipped=$((skipped + 1))
        skips+=("$step: $line")
    done < <(skipped_at_run_time "$logs/$step.log")
    if [ "$code" != 0 ]; then
        [ "$found_failed" = 0 ] && failed=$((failed + 1))
        [ "$code" = 124 ] && echo "$step was ended after $(limit_of "$step") s"
        failures+=("$step: exit code $code; see $logs/$step.log")
        while read -r line; do
            failures+=("$step: $line")
        done < <(sed -n 's/^test \(.*\) \.\.\. FAILED.*$/\1/p' "$logs/$step.log")
        summary+=("FAILED   $step, $took")
    elif [ -e "$logs/$step.skip" ]; then
        skipped=$((skipped + 1))
        skips+=("$step: $(cat "$logs/$step.skip")")
        summary+=("skipped  $step")
        echo "SKIPPED $(cat "$logs/$step.skip")"
    else
        [ "$found_passed" = 0 ] && passed=$((passed + 1))
        summary+=("ok       $step, $took")
    fi
    echo "==== $step took $took"
done

if [ -e "$logs/also-skipped" ]; then
    while read -r line; do
        skipped=$((skipped + 1))
        skips+=("$line")
    done <"$logs/also-skipped"
fi

echo
echo "==== summary, $SECONDS s in all"
printf '%s\n' "${summary[@]}"
[ ${#failures[@]} -gt 0 ] && printf 'failed:  %s\n' "${failures[@]}"
[ ${#skips[@]} -gt 0 ] && printf 'skipped: %s\n' "${skips[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
exit
}

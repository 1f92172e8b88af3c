#!/usr/bin/env bash
# Builds the sidecar and the C library for machines older than this one, and of another kind: against glibc 2.28 (Debian 10, RHEL 8,
# Ubuntu 20.04), with zig as compiler and linker. What a package brings is built here and nowhere else.
#
#   ci/portable.sh                     for this machine's processor
#   ci/portable.sh x86_64 aarch64      for these
#   ci/portable.sh --tools             only installs the tools; prints the folder of their commands
#   ci/portable.sh --environment P     prints the shell's commands for another build of the kind for platform P: eval them, then
#                                      `cargo zigbuild --target P-unknown-linux-gnu.2.28` or `maturin build --zig`
#   ci/portable.sh --can PLATFORM      says why PLATFORM cannot be built here, with exit code 1; installs what it can
#
# Leaves target/portable/PLATFORM/{machnet,libmachnet.so,libmachnet.a}, without what only a debugger reads, each checked by
# ci/glibc.sh. Built in target/portable-build, so that a second run builds only what changed.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

usage() { sed -n '2,/^set /{/^# \?/!d; s/^# \?//; p}' "ci/portable.sh"; }

platforms=()
only=build
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage && exit ;;
        --tools) only=tools ;;
        --can) only=can ;;
        --environment) only=environment ;;
        x86_64 | aarch64) platforms+=("$1") ;;
        *) echo "ci/portable.sh: there is no platform '$1'; x86_64 and aarch64 are" >&2 && exit 2 ;;
    esac
    shift
done
[ ${#platforms[@]} -gt 0 ] || platforms=("$(uname -m)")

# The tools, once for each version of their list.
install_tools() {
    cmp -s ci/packaging-requirements.txt "$packaging_tools/installed" && return
    rm -rf "$packaging_tools"
    python3 -m venv "$packaging_tools" >/dev/null || { echo "python3 with venv is not installed" && return 1; }
    "$packaging_tools/bin/pip" --disable-pip-version-check install --quiet --requirement ci/packaging-requirements.txt >&2 ||
        { echo "the tools of ci/packaging-requirements.txt cannot be installed: no way to PyPI?" && return 1; }
    cp ci/packaging-requirements.txt "$packaging_tools/installed"
}

# Says what is missing for a platform that cannot be had.
can() {
    local triple="$1-unknown-linux-gnu" sysroot
    install_tools || return 1
    sysroot="$(rustc --print sysroot)"
    [ -d "$sysroot/lib/rustlib/$triple/lib" ] && return
    command -v rustup >/dev/null 2>&1 && timeout 300 rustup --quiet target add "$triple" >&2 && return
    echo "Rust's standard library for $triple is not installed: rustup target add $triple"
    return 1
}

# LLVM's objcopy of the Rust toolchain knows every processor; the one of binutils only its own.
strip_library() {
    local objcopy
    objcopy="$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/rust-objcopy"
    if [ -x "$objcopy" ]; then LD_LIBRARY_PATH="$(rustc --print sysroot)/lib" "$objcopy" --strip-debug --enable-deterministic-archives "$1" "$2"; else cp "$1" "$2"; fi
}

# Zig brings an unwinder of its own, LLVM's, and links it into everything. It must not: when glibc ends a thread (pthread_exit,
# pthread_cancel; Python does so with daemon threads at its end), it unwinds with libgcc_s, and asks the Rust frames on its way about
# a state that only libgcc_s knows. So what we ship needs libgcc_s.so.1, as everything that gcc links does. This file stands for
# it while linking; zig's own, which comes behind it, then has nothing left to define.
unwinder() {
    local folder name
    folder="$(mkdir -p "$target_dir/portable-build" && cd "$target_dir/portable-build" && pwd)/unwinder-$1"
    if [ ! -e "$folder/libgcc_s.so.1" ]; then
        mkdir -p "$folder"
        for name in Backtrace DeleteException FindEnclosingFunction ForcedUnwind GetCFA GetDataRelBase GetGR GetIP GetIPInfo \
            GetLanguageSpecificData GetRegionStart GetTextRelBase RaiseException Resume Resume_or_Rethrow SetGR SetIP; do
            echo "void _Unwind_$name(void) {}"
        done >"$folder/unwinder.c"
        "$packaging_tools/bin/python-zig" cc -target "$1-linux-gnu.$oldest_glibc" -shared -nostdlib -Wl,-soname,libgcc_s.so.1 \
            -o "$folder/libgcc_s.so.1" "$folder/unwinder.c" >&2
    fi
    echo "$folder/libgcc_s.so.1"
}

# The environment of a build for a platform: no path of this machine in it, no names for debuggers.
environment() {
    echo "export CARGO_TARGET_DIR='$(mkdir -p "$target_dir/portable-build" && cd "$target_dir/portable-build" && pwd)'"
    echo "export CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=symbols"
    echo "export PATH='$packaging_tools/bin':\"\$PATH\""
    echo "export RUSTFLAGS='--remap-path-prefix=$PWD=/machnet --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo -Clink-arg=$(unwinder "$1")'"
}

build() {
    local platform="$1" triple="$1-unknown-linux-gnu" out="$target_dir/portable/$1" built environment
    built="$target_dir/portable-build/$triple/release"
    environment="$(environment "$platform")"
    # In one call, so that both are built with the same features of the same crates.
    (eval "$environment" && cargo zigbuild --quiet --locked --release -p machnet-engine -p machnet-ffi --target "$triple.$oldest_glibc")
    mkdir -p "$out"
    local file
    for file in machnet libmachnet.so; do
        cmp -s "$built/$file" "$out/$file" || install -m 0755 "$built/$file" "$out/$file"
    done
    # Copied only when it changed, so that what is built from it stays good.
    strip_library "$built/libmachnet.a" "$out/libmachnet.a.new"
    if cmp -s "$out/libmachnet.a.new" "$out/libmachnet.a"; then
        rm "$out/libmachnet.a.new"
    else
        chmod 0644 "$out/libmachnet.a.new" && mv "$out/libmachnet.a.new" "$out/libmachnet.a"
    fi
    ci/glibc.sh --platform "$platform" "$out/machnet" "$out/libmachnet.so" "$out/libmachnet.a"
}

case "$only" in
    tools) install_tools >&2 && echo "$packaging_tools/bin" ;;
    can) can "${platforms[0]}" ;;
    environment) can "${platforms[0]}" >&2 && environment "${platforms[0]}" ;;
    build)
        for platform in "${platforms[@]}"; do
            reason="$(can "$platform")" || { echo "$platform cannot be built here: $reason" >&2 && exit 1; }
            build "$platform"
        done
        ;;
esac

#!/usr/bin/env bash
# Makes what a release consists of, into target/dist, and checks it. docs/releasing.md tells what happens to it then.
#
#   ci/dist.sh                          everything, for this machine's processor
#   ci/dist.sh x86_64 aarch64           for these processors
#   ci/dist.sh --only c                 only some: c, dpdk, python, go, node or csharp; may be given more than once
#   ci/dist.sh --out FOLDER             to another folder
#   ci/dist.sh --quiet                  without the list at the end
#
#   c/machnet-VERSION-linux-PLATFORM.tar.gz     bin, lib, include, pkg-config and CMake files; runs from wherever it is unpacked
#   dpdk/machnet-dpdk-VERSION-SYSTEM.tar.gz     the plugin of driver dpdk for the system that this runs on: its DPDK, its C library
#   python/*.whl                                one wheel for each platform, and one without native code for all others
#   go/                                         a module proxy of files: the module and one more for each platform
#   node/*.tgz, csharp/*.nupkg                  made by the scripts of node/ and csharp/, where they exist
#   SHA256SUMS                                  of all files
#
# Whatever a package brings comes from ci/portable.sh. A language whose tools are not installed is skipped aloud.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

out="$target_dir/dist" quiet='' platforms=() kinds=()
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) sed -n '2,/^set /{/^# \?/!d; s/^# \?//; p}' ci/dist.sh && exit ;;
        --out) out="$2" && shift ;;
        --quiet) quiet=1 ;;
        --only)
            case "${2:-}" in
                c | dpdk | python | go | node | csharp) kinds+=("$2") && shift ;;
                *) echo "ci/dist.sh: --only c, dpdk, python, go, node or csharp, not '${2:-}'" >&2 && exit 2 ;;
            esac
            ;;
        x86_64 | aarch64) platforms+=("$1") ;;
        *) echo "ci/dist.sh: there is no platform '$1'; x86_64 and aarch64 are" >&2 && exit 2 ;;
    esac
    shift
done
[ ${#platforms[@]} -gt 0 ] || platforms=("$(uname -m)")
[ ${#kinds[@]} -gt 0 ] || kinds=(c dpdk python go node csharp)

version="$(version_of_workspace)"
mkdir -p "$out" "$target_dir/portable"
out="$(cd "$out" && pwd)"
portable="$(cd "$target_dir/portable" && pwd)"
target="$(cd "$target_dir" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
skipped() { echo "SKIPPED dist: $1"; }

# Those that can be built here.
possible=()
for platform in "${platforms[@]}"; do
    if reason="$(ci/portable.sh --can "$platform")"; then possible+=("$platform"); else skipped "$platform: $reason"; fi
done
[ ${#possible[@]} -gt 0 ] || exit 0
ci/portable.sh "${possible[@]}" >"$work/portable.log" || { cat "$work/portable.log" && exit 1; }

# ---- C: what `make install` installs ------------------------------------------------------------------------------------

dist_c() {
    local platform name
    rm -rf "$out/c" && mkdir -p "$out/c"
    for platform in "${possible[@]}"; do
        name="machnet-$version-linux-$platform"
        # The plugin of driver dpdk is for one system, and this runs on many.
        make --no-print-directory --silent install release_dir="$portable/$platform" dpdk_dir=/nonexistent DESTDIR="$work" PREFIX="/$name" >"$work/install.log"
        install -m 0644 LICENSE "$work/$name/LICENSE"
        # The same bytes for the same files, whoever packs them and when.
        tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime='@0' -cf - "$name" | gzip -n9 >"$out/c/$name.tar.gz"
        ci/glibc.sh "$out/c/$name.tar.gz" >"$work/glibc.log" || { cat "$work/glibc.log" && return 1; }
        [ "$platform" != "$(uname -m)" ] || ci/c-package.sh "$work/$name"
    done
}

# ---- the plugin of driver dpdk ------------------------------------------------------------------------------------------

# With the system's own DPDK inside, so it is a package for this system only, unpacked over where the sidecar is.
dist_dpdk() {
    local reason system name
    reason="$(dpdk/build.sh --can)" || { skipped "dpdk: $reason" && return; }
    system="$(. /etc/os-release && echo "${ID:-linux}${VERSION_ID:-}")-$(uname -m)"
    name="machnet-dpdk-$version-$system"
    rm -rf "$out/dpdk" && mkdir -p "$out/dpdk" "$work/$name/lib/machnet"
    dpdk/build.sh --out "$work/$name/lib/machnet" >"$work/dpdk.log" 2>&1 || { cat "$work/dpdk.log" && return 1; }
    install -m 0644 LICENSE "$work/$name/LICENSE"
    # DPDK asks that its notice goes with it.
    [ ! -e /usr/share/doc/libdpdk-dev/copyright ] || install -m 0644 /usr/share/doc/libdpdk-dev/copyright "$work/$name/LICENSE.DPDK"
    tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime='@0' -cf - "$name" | gzip -n9 >"$out/dpdk/$name.tar.gz"
}

# ---- Python -------------------------------------------------------------------------------------------------------------

dist_python() {
    local platform wheel environment
    command -v python3 >/dev/null 2>&1 || { skipped "python: python3 is not installed" && return; }
    rm -rf "$out/python" && mkdir -p "$out/python" python/machnet/bin
    for platform in "${possible[@]}"; do
        install -m 0755 "$portable/$platform/machnet" python/machnet/bin/machnet
        environment="$(ci/portable.sh --environment "$platform")"
        (eval "$environment" && cd python &&
            maturin build --quiet --release --locked --zig --compatibility "manylinux_${oldest_glibc/./_}" \
                --target "$platform-unknown-linux-gnu" --out "$out/python") >"$work/maturin.log" 2>&1 || { cat "$work/maturin.log" && return 1; }
        wheel="$(ls "$out"/python/*_"$platform".whl)"
        case "$wheel" in
            *"/machnet-${version/-/*}-cp311-abi3-manylinux_${oldest_glibc/./_}_$platform.whl") ;;
            *) echo "maturin made another wheel than asked for: $wheel" && return 1 ;;
        esac
        ci/glibc.sh --platform "$platform" "$wheel" >"$work/glibc.log" || { cat "$work/glibc.log" && return 1; }
        [ "$(grep -c : "$work/glibc.log")" = 2 ] || { echo "$wheel does not bring both the library and the sidecar:" && cat "$work/glibc.log" && return 1; }
    done
    python3 python/elsewhere/make_wheel.py "$wheel" "$out/python" >/dev/null
    # The sources do not keep the sidecar of the last platform.
    rm -f python/machnet/bin/machnet
}

# ---- Go -----------------------------------------------------------------------------------------------------------------

dist_go() {
    command -v go >/dev/null 2>&1 || { skipped "go: Go is not installed" && return; }
    local platform folder
    ci/go.sh prepare --portable
    # What was prepared for another platform some time ago is no part of this release.
    for platform in linux_amd64:x86_64 linux_arm64:aarch64; do
        folder="go/platform/${platform%%:*}"
        case " ${possible[*]} " in
            *" ${platform#*:} "*) ;;
            *) rm -f "$folder/libmachnet.a" "$folder/sidecar/machnet" ;;
        esac
    done
    ci/go.sh proxy "$out/go"
    find "$out/go" -name '*.zip' -path '*/platform/*' -print0 | while IFS= read -r -d '' zip; do
        # One for a platform that was not built has nothing to check.
        unzip_list "$zip" | grep '/libmachnet\.a$' >/dev/null || continue
        ci/glibc.sh "$zip" >"$work/glibc.log" || { cat "$work/glibc.log" && return 1; }
    done
}
# The names of the files in a zip archive.
unzip_list() { python3 -c 'import sys, zipfile; print("\n".join(zipfile.ZipFile(sys.argv[1]).namelist()))' "$1"; }

# ---- Node, C#: their own scripts know how -------------------------------------------------------------------------------

# Called as SCRIPT FOLDER PLATFORM...; MACHNET_PORTABLE names the folder that has machnet and libmachnet.so in a folder per platform.
by_script() {
    local kind="$1" script="ci/dist-$1.sh" file
    [ -x "$script" ] || { skipped "$kind: there is no $script yet" && return; }
    rm -rf "${out:?}/$kind" && mkdir -p "$out/$kind"
    MACHNET_PORTABLE="$portable" "$script" "$out/$kind" "${possible[@]}" || return
    for file in "$out/$kind"/*; do
        [ -e "$file" ] || continue
        ci/glibc.sh --if-any "$file" >"$work/glibc.log" || { cat "$work/glibc.log" && return 1; }
    done
}

for kind in "${kinds[@]}"; do
    case "$kind" in
        c | dpdk | python | go) "dist_$kind" ;;
        *) by_script "$kind" ;;
    esac
done

(cd "$out" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs -r -d '\n' sha256sum >SHA256SUMS)
[ -n "$quiet" ] || (cd "$out" && find . -type f -printf '%9s  %P\n' | sort -k 2)

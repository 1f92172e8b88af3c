#!/usr/bin/env bash
# Builds the container image of container/Containerfile and tries it: two sidecars in two containers, for each driver with the least
# rights that it needs, and what each says where something is missing.
#
#   ci/container.sh                          builds and tries everything (a step of the tests)
#   ci/container.sh build                    only builds the image, on the base that the Containerfile names: `make container`
#   ci/container.sh udp packet               builds, and tries only these: udp, packet, xdp, dpdk, errors
#   --base IMAGE    another base; the tests make theirs with debootstrap
#   --tag NAME      the image's name; machnet by default
#   --tool NAME     podman or docker; podman by default
#
# The programs come from ci/portable.sh, the plugin from dpdk/build.sh where that can be built. It needs root (podman with runc). It
# leaves the image, and nothing that runs.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

only_build='' base='' tag=machnet tool=podman rows=()
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) sed -n '2,/^set /{/^# \?/!d; s/^# \?//; p}' ci/container.sh && exit ;;
        build) only_build=1 ;;
        --base) base="$2" && shift ;;
        --tag) tag="$2" && shift ;;
        --tool) tool="$2" && shift ;;
        udp | packet | xdp | dpdk | errors) rows+=("$1") ;;
        *) echo "ci/container.sh: there is no '$1'; udp, packet, xdp, dpdk and errors are" >&2 && exit 2 ;;
    esac
    shift
done
[ ${#rows[@]} -gt 0 ] || rows=(udp packet xdp dpdk errors)

skip_all() { echo "SKIPPED container: $1" && exit 0; }
refuse() { if [ -n "$only_build" ]; then echo "ci/container.sh: $1" >&2 && exit 1; else skip_all "$1"; fi; }

install_tool() {
    command -v "$tool" >/dev/null 2>&1 && return
    [ "$tool" = podman ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    local packages=(podman buildah runc debootstrap)
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}" </dev/null >/dev/null 2>&1 ||
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"; } </dev/null >/dev/null 2>&1
}
install_tool || refuse "$tool is not installed (apt-get install podman runc)"

# ---- the image ----------------------------------------------------------------------------------------------------------

work="$(mktemp -d)"
running=()
cleanup() {
    local name
    for name in "${running[@]:-}"; do [ -z "$name" ] || "$tool" rm --force --time 2 "$name" >/dev/null 2>&1 || true; done
    rm -rf "$work"
}
trap cleanup EXIT

platform="$(uname -m)"
reason="$(ci/portable.sh --can "$platform")" || refuse "$reason"
ci/portable.sh "$platform" >"$work/portable.log" 2>&1 || { cat "$work/portable.log" && exit 1; }

context="$work/context"
mkdir -p "$context/lib"
cp "$target_dir/portable/$platform/machnet" container/Containerfile "$context/"
plugin=''
if [ -x dpdk/build.sh ] && dpdk/build.sh --out "$work/plugin" >"$work/plugin.log" 2>&1; then
    plugin="$work/plugin/libmachnet_dpdk.so"
    strip --strip-unneeded -o "$context/lib/libmachnet_dpdk.so" "$plugin"
else
    echo "container: the image has no DPDK plugin: $(tail -n 1 "$work/plugin.log" 2>/dev/null || echo 'it cannot be built here')"
fi

# A minimal Debian 12, which a registry would give where one can be reached.
make_base() {
    local root="$tools_dir/clean-root/bookworm"
    [ "$tool" = podman ] || refuse "without a registry the base is made with podman"
    if [ ! -d "$root" ]; then
        command -v debootstrap >/dev/null 2>&1 || refuse "debootstrap is not installed"
        mkdir -p "${root%/*}"
        rm -rf "$root.new"
        debootstrap --variant=minbase --include=libgcc-s1 bookworm "$root.new" >"$work/debootstrap.log" 2>&1 ||
            refuse "debootstrap could not make a root: $(tail -n 1 "$work/debootstrap.log")"
        rm -rf "$root.new"/var/cache/apt/archives/*.deb
        mv "$root.new" "$root"
    fi
    base=localhost/machnet-base:bookworm
    podman image exists "$base" || tar -C "$root" -c . | podman import --quiet - "$base" >/dev/null
}
[ -n "$only_build" ] || [ -n "$base" ] || make_base

arguments=()
[ "$tool" != podman ] || arguments=(--isolation=chroot --pull=missing)
[ -z "$base" ] || arguments+=(--build-arg "BASE=$base")
"$tool" build "${arguments[@]}" --tag "$tag" --file "$context/Containerfile" "$context" >"$work/build.log" 2>&1 ||
    { tail -n 20 "$work/build.log" && exit 1; }
echo "container: built $tag ($("$tool" image inspect --format '{{.Size}}' "$tag" | awk '{ printf "%.0f MB", $1 / 1e6 }') with its base)"
[ -z "$only_build" ] || exit 0

# ---- trials -------------------------------------------------------------------------------------------------------------

[ "$(id -u)" = 0 ] || skip_all "the trials need root: podman's bridge network"
passed=0 failed=()
machnet="$target_dir/portable/$platform/machnet"
# runc knows the mixed cgroups of some systems that crun does not; limits above the machine's own are refused.
run=("$tool" run --ulimit nofile=1024:1024 --ulimit nproc=4096:4096)
[ "$tool" != podman ] || ! command -v runc >/dev/null 2>&1 || run=("$tool" --runtime=runc "${run[@]:1}")
"${run[@]}" --rm --network none "$tag" --version >"$work/first.log" 2>&1 || skip_all "no container can run here: $(tail -n 1 "$work/first.log")"

expect() {
    if "$@"; then passed=$((passed + 1)); else failed+=("$row") && echo "container: $row FAILED: $*"; fi
}

# start SIDE ARGUMENTS of podman run -- ARGUMENTS of machnet: a sidecar that is up, with its socket in $work/SIDE.
start() {
    local side="$1" options=() name
    shift
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    shift
    name="machnet-test-$$-$row-$side"
    mkdir -p "$work/$side"
    chown 7777:7777 "$work/$side"
    running+=("$name")
    "${run[@]}" --detach --name "$name" --read-only --security-opt=no-new-privileges --cap-drop=all "${options[@]}" \
        --volume "$work/$side:/run/machnet" "$tag" "$@" >/dev/null 2>"$work/$side.err" || { cat "$work/$side.err" && return 1; }
    local tries=100
    until "$tool" logs "$name" 2>"$work/$side.err" | grep -q 'machnet is up'; do
        tries=$((tries - 1))
        if [ $tries = 0 ] || [ "$("$tool" inspect --format '{{.State.Running}}' "$name")" != true ]; then
            tail -n 3 "$work/$side.err"
            return 1
        fi
        sleep 0.1
    done
}

address_of() { "$tool" inspect --format '{{.NetworkSettings.IPAddress}}' "machnet-test-$$-$row-$1"; }

# The programs that talk have the socket's folder and nothing else: no network, no rights.
ping() {
    "${run[@]}" --rm --network none --cap-drop=all --group-add 7777 --user 1234:1234 --volume "$work/one:/run/machnet" "$tag" \
        ping "$1" --count 3 --interval 0.05 >"$work/ping.log" 2>&1 || { tail -n 3 "$work/ping.log" && return 1; }
    grep -q '3 sent, 3 answered' "$work/ping.log"
}

# SIGTERM ends a sidecar in order, with 0.
stop() {
    local side
    for side in one two; do
        "$tool" stop --time 5 "machnet-test-$$-$row-$side" >/dev/null || return 1
        [ "$("$tool" inspect --format '{{.State.ExitCode}}' "machnet-test-$$-$row-$side")" = 0 ] || return 1
        "$tool" rm "machnet-test-$$-$row-$side" >/dev/null
    done
    rm -rf "$work/one" "$work/two"
}

# Two sidecars with these rights and settings, on the bridge network.
pair() {
    local options=() side
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    for side in one two; do start $side --network podman "${options[@]}" "$@" || return 1; done
    ping "$(address_of two)" && stop
}

try_udp() { expect pair -- up; }

try_packet() { expect pair --cap-add=NET_RAW -- up --driver packet; }

# Where podman's profile lets nobody but CAP_SYS_ADMIN call bpf(2), one that knows CAP_BPF.
try_xdp() {
    local profile=/usr/share/containers/seccomp.json options=()
    if [ -e $profile ] && ! grep -q '"CAP_BPF"' $profile; then
        container/seccomp-bpf.py $profile >"$work/seccomp.json"
        options=(--security-opt "seccomp=$work/seccomp.json")
    fi
    expect pair "${options[@]}" --cap-add=NET_RAW --cap-add=NET_ADMIN --cap-add=BPF -- up --driver xdp
}

# Two ports of DPDK that share memory through a socket: no rights, no network.
try_dpdk() {
    [ -n "$plugin" ] || { echo "SKIPPED container: dpdk: the plugin cannot be built here" && return; }
    mkdir -p "$work/memif" && chown 7777:7777 "$work/memif"
    memif() {
        local device="net_memif0,socket=/memif/memif.sock,socket-abstract=no"
        start one --network none --volume "$work/memif:/memif" -- up --driver dpdk --hugepages off --vdev "$device,role=server" --address 10.77.0.1/24 &&
            start two --network none --volume "$work/memif:/memif" -- up --driver dpdk --hugepages off --vdev "$device,role=client" --address 10.77.0.2/24 &&
            ping 10.77.0.2 && stop
    }
    expect memif
}

# says WORDS... -- OPTIONS -- ARGUMENTS: the sidecar does not start, in one sentence with these words.
says() {
    local words=() options=() word
    while [ "$1" != -- ]; do words+=("$1") && shift; done
    shift
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    shift
    if "${run[@]}" --rm --cap-drop=all --network podman "${options[@]}" "$tag" "$@" >"$work/said.log" 2>&1; then
        echo "it started" && return 1
    fi
    [ "$(grep -c '^machnet: ' "$work/said.log")" = 1 ] || { cat "$work/said.log" && return 1; }
    for word in "${words[@]}"; do grep -qi -e "$word" "$work/said.log" || { echo "no '$word' in: $(cat "$work/said.log")" && return 1; }; done
}

try_errors() {
    expect says 'CAP_NET_RAW' -- -- up --driver packet
    expect says 'CAP_' -- -- up --driver xdp
    expect says 'no interface' 'eth9' -- --cap-add=NET_RAW -- up --driver packet --interface eth9
    expect says 'libmachnet_dpdk' -- -- up --driver dpdk --dpdk-plugin /nowhere/libmachnet_dpdk.so --vdev net_null0 --address 10.0.0.1/24
    [ -n "$plugin" ] || return 0
    expect says 'hugepages' -- -- up --driver dpdk --hugepages on --vdev net_null0 --address 10.0.0.1/24
    expect says 'pci' -- -- up --driver dpdk --pci 0000:00:1f.7 --address 10.0.0.1/24
    expect says 'net_nothing0' -- -- up --driver dpdk --hugepages off --vdev net_nothing0 --address 10.0.0.1/24
}

for row in "${rows[@]}"; do
    began=$SECONDS
    before=${#failed[@]}
    "try_$row"
    [ ${#failed[@]} != "$before" ] || echo "container: $row ok, $((SECONDS - began)) s"
done
echo "test result: $([ ${#failed[@]} = 0 ] && echo ok || echo FAILED). $passed passed; ${#failed[@]} failed"
[ ${#failed[@]} = 0 ]

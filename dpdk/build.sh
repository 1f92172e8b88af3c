#!/usr/bin/env bash
# Builds libmachnet_dpdk.so, the plugin that the driver `dpdk` opens. docs/drivers/dpdk.md tells how it is used.
#
#   dpdk/build.sh                     with DPDK's archives inside: needs nothing of DPDK where it runs
#   dpdk/build.sh --shared            over the distribution's shared objects: has every driver that they have, mlx5 too
#   dpdk/build.sh --out FOLDER        to another folder than target/dpdk
#   dpdk/build.sh --can               whether it could be built here: says why not, and fails
#
# Needs a C compiler, pkg-config and DPDK's development files; on Debian and Ubuntu: apt-get install gcc pkg-config libdpdk-dev
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

kind=static out="${CARGO_TARGET_DIR:-$here/../target}/dpdk" only_ask=''
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) sed -n '2,/^set /{/^# \?/!d; s/^# \?//; p}' "$0" && exit ;;
        --shared) kind=shared ;;
        --out) out="$2" && shift ;;
        --can) only_ask=1 ;;
        *) echo "dpdk/build.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
    shift
done

for command in "${CC:=cc}" pkg-config; do
    command -v "$command" >/dev/null 2>&1 || { echo "$command is not installed" && exit 1; }
done
pkg-config --exists libdpdk || { echo "DPDK's development files are not installed (Debian: apt-get install libdpdk-dev)" && exit 1; }
[ -z "$only_ask" ] || exit 0

# What is linked in where this release has it: the network cards of clouds and servers, and the virtual devices that Machnet is
# tested with. mlx5 needs shared objects of rdma-core at run time (--shared); for AF_XDP the sidecar has a driver of its own.
drivers=(ena gve netvsc mana virtio vmxnet3 ixgbe i40e ice iavf e1000 igc af_packet memif tap vhost ring null)
buses=(pci vdev vmbus auxiliary)

archives="$(pkg-config --variable=libdir libdpdk)"
mkdir -p "$out"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# ---- the drivers, as their archives or shared objects describe themselves ----------------------------------------------

# A name and the PCI ids in JSON's brackets, a line each: PMD_INFO_STRING= {"name": "net_ena", ..., "pci_ids": [[7439, ...]]}
described() {
    cat "$@" | grep -a -o 'PMD_INFO_STRING= {[^}]*}' | sed -n 's/.*"name": *"\([a-z0-9_]*\)".*"pci_ids": *\[\(.*\)\] *}/\1 \2/p' | LC_ALL=C sort -u
}
write_drivers() {
    local name ids count
    echo '/* Made by build.sh. */'
    : >"$work/table"
    while read -r name ids; do
        count="$(tr -cd '[' <<<"$ids" | wc -c)"
        if [ "$count" -gt 0 ]; then
            echo "static const uint16_t ids_of_$name[][4] = { $(tr '[]' '{}' <<<"$ids") };"
            echo "	{ .name = \"$name\", .ids = ids_of_$name, .id_count = $count }," >>"$work/table"
        else
            echo "	{ .name = \"$name\", .ids = 0, .id_count = 0 }," >>"$work/table"
        fi
    done
    echo 'static const struct machnet_dpdk_driver linked_in[] = {'
    cat "$work/table"
    echo '};'
}

wanted=() have=()
if [ "$kind" = static ]; then
    for driver in "${drivers[@]}"; do
        [ -e "$archives/librte_net_$driver.a" ] || { echo "without $driver: $archives has no archive of it" && continue; }
        wanted+=("-lrte_net_$driver")
        have+=("$archives/librte_net_$driver.a")
    done
    for bus in "${buses[@]}"; do
        [ ! -e "$archives/librte_bus_$bus.a" ] || wanted+=("-lrte_bus_$bus")
    done
    wanted+=(-lrte_mempool_ring)
    # Everything below the drivers; the linker takes what they use.
    below=()
    for archive in "$archives"/librte_*.a; do
        name="$(basename "$archive" .a)"
        below+=("-l${name#lib}")
    done
    # Of the libraries of others, only those that what we take uses stay (--as-needed).
    libraries=(-Wl,-Bstatic -Wl,--whole-archive "${wanted[@]}" -Wl,--no-whole-archive
        -Wl,--start-group "${below[@]}" -Wl,--end-group -Wl,-Bdynamic -Wl,--as-needed)
    for library in numa bsd md; do
        # Their archives, if there are any and they can be part of a shared object, save the user three packages.
        if echo 'int x;' | "$CC" -x c -shared -fPIC -o /dev/null - -Wl,--whole-archive "-l:lib$library.a" -Wl,--no-whole-archive 2>/dev/null; then
            libraries+=("-l:lib$library.a")
        elif [ -e "$archives/lib$library.so" ]; then
            libraries+=("-l$library")
        fi
    done
    libraries+=(-lpthread -ldl -lm)
else
    for driver in "$archives"/librte_net_*.so; do have+=("$driver"); done
    read -r -a libraries <<<"$(pkg-config --libs libdpdk)"
fi
described "${have[@]}" | write_drivers >"$work/drivers.h"
grep -q '\.name' "$work/drivers.h" || { echo "no driver describes itself in $archives" && exit 1; }

# ---- the plugin ---------------------------------------------------------------------------------------------------------

read -r -a flags <<<"$(pkg-config --cflags libdpdk | sed 's/-I/-isystem /g')"
"$CC" -std=gnu11 -O3 -g1 -fPIC -fvisibility=hidden -ffunction-sections -fdata-sections -Wall -Wextra -Werror \
    -DALLOW_EXPERIMENTAL_API "${flags[@]}" -I"$work" -I"$here" -c "$here/plugin.c" -o "$work/plugin.o"
"$CC" -shared -o "$work/libmachnet_dpdk.so" "$work/plugin.o" -Wl,--version-script="$here/plugin.map" -Wl,--gc-sections \
    -Wl,-z,relro,-z,now -Wl,-z,nodelete -Wl,-soname,libmachnet_dpdk.so -L"$archives" "${libraries[@]}"
"${STRIP:-strip}" --strip-unneeded "$work/libmachnet_dpdk.so"
mv "$work/libmachnet_dpdk.so" "$out/libmachnet_dpdk.so"
echo "$out/libmachnet_dpdk.so: DPDK $(pkg-config --modversion libdpdk), $kind, $(grep -c '\.name' "$work/drivers.h") drivers, $(stat -c %s "$out/libmachnet_dpdk.so") bytes"

#!/usr/bin/env bash
# Runs the packages of target/dist for another processor, aarch64, under qemu-user: the sidecar, two of them talking to each other, and
# the first lines of the READMEs in C, Go and Python. Emulation shows that the programs are whole and do what they should, not how
# they behave with that processor's order of memory accesses.
#
#   ci/qemu.sh
#
# Needs the packages of `ci/dist.sh aarch64`, qemu-user, debootstrap and namespaces. Debian's libraries and Python for aarch64 are
# downloaded once and only unpacked, into a folder among the tools.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

platform=aarch64
version="$(version_of_workspace)"
dist="$(realpath -m "$target_dir/dist")"
sysroot="$tools_dir/sysroot-bookworm-arm64"
case "${1:-}" in -h | --help) sed -n '2,/^set /{/^# \?/!d; s/^# \?//; p}' ci/qemu.sh && exit ;; esac

skip_all() { echo "SKIPPED qemu: $1" && exit 0; }
[ "$(uname -m)" != "$platform" ] || skip_all "this machine is an $platform: the other steps run there"
[ -e "$dist/c/machnet-$version-linux-$platform.tar.gz" ] || skip_all "there is no package for $platform: ci/dist.sh $platform makes it"

# ---- what it needs ------------------------------------------------------------------------------------------------------

install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends "$@" </dev/null >/dev/null 2>&1 && return
    { apt-get update && apt-get install -y --no-install-recommends "$@"; } </dev/null >/dev/null 2>&1
}
command -v qemu-aarch64 >/dev/null 2>&1 || install qemu-user || skip_all "qemu-user is not installed"
for tool in unshare ip; do command -v $tool >/dev/null 2>&1 || skip_all "$tool is not installed"; done

if [ ! -d "$sysroot" ]; then
    [ "$(id -u)" = 0 ] || skip_all "only root can make the folder of Debian's libraries for $platform"
    command -v debootstrap >/dev/null 2>&1 || install debootstrap || skip_all "debootstrap is not installed"
    echo "unpacking Debian's libraries for $platform (once)"
    rm -rf "$sysroot.new"
    mkdir -p "$tools_dir"
    # The first stage alone: nothing of it is run.
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3 bookworm "$sysroot.new" >"$sysroot.log" 2>&1 ||
        { tail -n 5 "$sysroot.log" && skip_all "debootstrap could not download Debian's packages for $platform"; }
    for package in "$sysroot.new"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$sysroot.new"; done
    rm -rf "$sysroot.new"/var/cache/apt
    mv "$sysroot.new" "$sysroot"
fi

# A network of its own, so that every port is free.
if [ -z "${QEMU_INSIDE:-}" ]; then
    spaces=(--net)
    [ "$(id -u)" = 0 ] || spaces=(--net --user --map-root-user)
    unshare "${spaces[@]}" true 2>/dev/null || skip_all "this machine allows no namespaces"
    QEMU_INSIDE=1 exec timeout --kill-after=5 250 unshare "${spaces[@]}" --kill-child --pid --fork ci/qemu.sh
fi
ip link set lo up

# ---- the tests ----------------------------------------------------------------------------------------------------------

work="$(mktemp -d)"
running=()
cleanup() {
    [ ${#running[@]} = 0 ] || kill "${running[@]}" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap cleanup EXIT
passed=0
passes() { passed=$((passed + 1)) && echo "$platform: $1"; }
fail() { echo "$1" >&2 && exit 1; }
emulated() { qemu-aarch64 -L "$sysroot" "$@"; }
within_a_minute() { timeout 60 qemu-aarch64 -L "$sysroot" "$@"; }
expect() { [ "$1" = "$2" ] || fail "expected \"$1\", and it said \"$2\""; }

tar -xzf "$dist/c/machnet-$version-linux-$platform.tar.gz" -C "$work"
prefix="$work/machnet-$version-linux-$platform"
expect "machnet $version" "$(emulated "$prefix/bin/machnet" --version)"
passes "machnet --version"

# Two hosts.
start_sidecar() {
    mkfifo "$work/$1.out"
    emulated "$prefix/bin/machnet" up --no-config --socket "$work/$1.sock" --address "$1" --log-level warn >"$work/$1.out" &
    running+=($!)
    timeout 60 sed '/^machnet is up:/q' "$work/$1.out" | grep '^machnet is up:' >/dev/null || fail "the sidecar at $1 did not start"
}
start_sidecar 127.0.0.1
start_sidecar 127.0.0.2
within_a_minute "$prefix/bin/machnet" ping 127.0.0.2 --socket "$work/127.0.0.1.sock" --count 20 --interval 0 >"$work/ping" ||
    fail "$(cat "$work/ping")"
grep '20 sent, 20 answered' "$work/ping" >/dev/null || fail "$(cat "$work/ping")"
passes "20 pings from one sidecar to the other"
export MACHNET_SOCKET="$work/127.0.0.1.sock"

lines_of() { awk -v start="\`\`\`$2" '$0 == start { on = 1; next } on && /^```$/ { exit } on' "$1"; }
compiler=("$packaging_tools/bin/python-zig" cc -target "$platform-linux-gnu.$oldest_glibc")

# C, static and shared, against a server in C.
lines_of README.md 'c run=client' >"$work/client.c"
sed -n "/^cat >server.c <<'C'\$/,/^C\$/{//!p}" ci/clean-root/c.sh >"$work/server.c"
"${compiler[@]}" -o "$work/client" "$work/client.c" -I "$prefix/include" -L "$prefix/lib" -lmachnet
"${compiler[@]}" -o "$work/server" "$work/server.c" -I "$prefix/include" "$prefix/lib/libmachnet.a" \
    "$target_dir/portable-build/unwinder-$platform/libgcc_s.so.1" -lpthread -ldl -lm
mkfifo "$work/server.out"
MACHNET_SOCKET="$work/127.0.0.2.sock" emulated "$work/server" >"$work/server.out" &
running+=($!)
read -r -t 60 line <"$work/server.out" || fail "the C server did not start"
expect listening "$line"
expect "answered: hello" "$(within_a_minute -E "LD_LIBRARY_PATH=$prefix/lib" "$work/client" 127.0.0.2)"
passes "C: shared client, static server, over two sidecars"

# Go, with cgo: the program of examples/echo, from the modules.
if command -v go >/dev/null 2>&1; then
    mkdir "$work/program"
    cp go/examples/echo/main.go "$work/program/"
    # gcc brings the unwinder by itself; zig is told.
    unwinder="$(realpath "$target_dir/portable-build/unwinder-$platform/libgcc_s.so.1")"
    build_program() {
        cd "$work/program" || return
        export GOPROXY="file://$dist/go" GOSUMDB=off GOTOOLCHAIN=local GOFLAGS=-modcacherw GOMODCACHE="$work/modules"
        export GOOS=linux GOARCH=arm64 CGO_ENABLED=1 CC="${compiler[*]}" CGO_LDFLAGS="$unwinder"
        go mod init example.com/program && go get "github.com/machnet/machnet/go@v$version" && go build -o echo . &&
            go build -o machnet github.com/machnet/machnet/go/cmd/machnet
    }
    (build_program) >"$work/go.log" 2>&1 || fail "$(cat "$work/go.log")"
    mkfifo "$work/echo.out"
    MACHNET_SOCKET="$work/127.0.0.2.sock" emulated "$work/program/echo" server :7001 >"$work/echo.out" &
    running+=($!)
    read -r -t 60 line <"$work/echo.out" || fail "the Go server did not start"
    expect "listening on 127.0.0.2:7001" "$line"
    within_a_minute "$work/program/echo" client 127.0.0.2:7001 >"$work/echo.log" || fail "$(cat "$work/echo.log")"
    # What it becomes is for that processor too, which only an emulator can run: that it is whole is enough here.
    within_a_minute -E "XDG_CACHE_HOME=$work/cache" "$work/program/machnet" --version >/dev/null 2>&1 || true
    cmp -s "$work"/cache/machnet/bin/machnet-* "$prefix/bin/machnet" || fail "cmd/machnet did not unpack the sidecar of $platform"
    passes "Go: examples/echo over two sidecars; cmd/machnet unpacks its sidecar"
else
    echo "SKIPPED qemu: go: Go is not installed"
fi

# Python: the wheel, unpacked where pip would.
if [ -x "$sysroot/usr/bin/python3" ]; then
    python3 -m zipfile -e "$dist/python/machnet-$version-cp311-abi3-manylinux_2_28_$platform.whl" "$work/site"
    lines_of python/README.md python >"$work/lines.py"
    expect "b'question' from 127.0.0.1
answer to question" "$(within_a_minute -E "PYTHONPATH=$work/site" "$sysroot/usr/bin/python3" "$work/lines.py")"
    passes "Python $(emulated "$sysroot/usr/bin/python3" -c 'import platform; print(platform.python_version(), platform.machine())'): the lines of the README"
fi
echo "test result: ok. $passed passed; 0 failed"

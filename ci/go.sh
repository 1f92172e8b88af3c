#!/usr/bin/env bash
# The Go SDK in go/: its checks, its tests against real sidecars, and `go get` of it by a program outside of this repository.
#
#   ci/go.sh                          everything
#   ci/go.sh prepare [--portable]     only copies header, library and sidecar to where Go finds them
#   ci/go.sh proxy FOLDER             writes what was prepared as a module proxy of files: what a release brings
#
# It takes the newer of what `make build` left in target/release and what ci/portable.sh made for this machine; and of other
# platforms what ci/portable.sh made, if it did. With --portable the latter only. MACHNET names another sidecar for the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

version="v$(version_of_workspace)"
module=github.com/machnet/machnet/go
target="$(mkdir -p "$target_dir" && cd "$target_dir" && pwd)"

skipped() { echo "SKIPPED $1" && exit 0; }

# The platforms by Go's names and by the processor's.
platforms=(linux_amd64:x86_64 linux_arm64:aarch64)
own=''
for platform in "${platforms[@]}"; do
    [ "$(uname -sm)" != "Linux ${platform#*:}" ] || own="$platform"
done
[ -n "$own" ] || skipped "go: this version brings the library for Linux on x86-64 and aarch64 only"

# Copied only when it changed, so that Go's build cache stays good.
refresh() {
    if cmp -s "$1" "$3"; then return; fi
    install -m "$2" "$1" "$3.new" && mv "$3.new" "$3"
}

prepare() {
    local only="${1:-}" header platform folder from release="$target/release"
    mkdir -p go/internal/lib/include
    for header in ffi/include/*.h; do refresh "$header" 0644 "go/internal/lib/include/${header##*/}"; done
    for platform in "${platforms[@]}"; do
        folder="go/platform/${platform%%:*}"
        from="$target/portable/${platform#*:}"
        if [ "$platform" = "$own" ] && [ "$only" != --portable ] &&
            { [ ! -e "$from/libmachnet.a" ] || [ "$release/libmachnet.a" -nt "$from/libmachnet.a" ]; }; then
            [ -e "$release/libmachnet.a" ] && [ -x "$release/machnet" ] ||
                { echo "there is no $release/libmachnet.a or $release/machnet: run \"make build\" first" && exit 1; }
            from="$target/go-own"
            mkdir -p "$from"
            # Without the names for debuggers, which are half of it.
            strip --strip-debug --enable-deterministic-archives -o "$from/libmachnet.a" "$release/libmachnet.a"
            strip -o "$from/machnet" "$release/machnet"
        fi
        [ -e "$from/libmachnet.a" ] || continue
        refresh "$from/libmachnet.a" 0644 "$folder/libmachnet.a"
        refresh "$from/machnet" 0755 "$folder/sidecar/machnet"
    done
}

# The platforms that were not prepared are there too, but say only that they exist: their modules are needed to choose versions.
write_proxy() {
    local platform name
    rm -rf "$1"
    (cd go/tests && GOWORK=off go build -o "$target/go-modproxy" ./modproxy)
    "$target/go-modproxy" go LICENSE "$module" "$version" "$1"
    for platform in "${platforms[@]}"; do
        name="platform/${platform%%:*}"
        "$target/go-modproxy" "go/$name" LICENSE "$module/$name" "$version" "$1"
    done
}

case "${1:-}" in
    prepare) prepare "${2:-}" && exit ;;
    proxy) write_proxy "$2" && exit ;;
    '') prepare ;;
    *) sed -n '2,/^set /{/^# \?/!d; s/^# \?//; p}' ci/go.sh && exit 2 ;;
esac
command -v go >/dev/null 2>&1 || skipped "go: Go is not installed"
own_sidecar="$PWD/go/platform/${own%%:*}/sidecar/machnet"
export MACHNET="${MACHNET:-$own_sidecar}"
[ -x "$MACHNET" ] || { echo "there is no $MACHNET" && exit 1; }

unformatted="$(gofmt -l go)"
[ -z "$unformatted" ] || { printf 'gofmt would change:\n%s\n' "$unformatted" && exit 1; }
required="$(awk '/^require \(/ { on = 1; next } /^\)/ { on = 0 } on { print $1 } /^require [^(]/ { print $2 }' go/go.mod |
    grep -v "^$module/platform/" || true)"
[ -z "$required" ] || { printf 'the library has dependencies:\n%s\n' "$required" && exit 1; }
# Never from a cache, which does not know when the sidecar changed.
ci/layout.sh >"$target/go-layout"
(cd go && go vet ./... && LAYOUT_TABLE="$target/go-layout" GODEBUG=cgocheck=1 go test -count=1 -race -timeout 200s ./...)

# Elsewhere it compiles, and says at Attach what is possible there.
for other in darwin/arm64 windows/amd64 freebsd/amd64 linux/riscv64; do
    (cd go && GOOS="${other%/*}" GOARCH="${other#*/}" CGO_ENABLED=0 go vet ./...) || { echo "go vet for $other failed" && exit 1; }
done
answer="$(cd go && CGO_ENABLED=0 go run ./examples/echo client 127.0.0.1:7000 2>&1 || true)"
case "$answer" in
    *'built without cgo'*'CGO_ENABLED=1'*) echo "darwin, windows, freebsd and linux/riscv64 compile; without cgo, Attach says so" ;;
    *) echo "a program built without cgo says: $answer" && exit 1 ;;
esac

# The ten lines of the README are the example that was just run.
lines_of() { sed -n "$2" "$1" | grep -v '^[[:space:]]*\(//.*\)\?$' | sed 's/^[[:space:]]*//'; }
readme="$(lines_of go/README.md '/^```go ten-lines$/,/^```$/{//!p}')"
example="$(lines_of go/example_test.go '/^func Example() {$/,/^}$/{//!p}')"
[ -n "$readme" ] && [ "$readme" = "$example" ] || {
    echo "the ten lines of go/README.md are not those of go/example_test.go:"
    diff <(echo "$readme") <(echo "$example")
    exit 1
}

if (cd go/tests && GOWORK=off timeout 60 go mod download golang.org/x/net) >"$target/go-download.log" 2>&1; then
    (cd go/tests && export GOWORK=off && go vet ./... && go test -count=1 -race -timeout 200s ./...)
else
    cat "$target/go-download.log"
    echo "SKIPPED go: nettest.TestConn: golang.org/x/net cannot be fetched from the module proxy"
fi

# A program outside, without Rust: go get from a proxy that has what a release has, go build, echo.
work="$(mktemp -d)"
sidecar=''
server=''
cleanup() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$sidecar" ] || kill "$sidecar" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap cleanup EXIT
write_proxy "$work/proxy"
mkdir "$work/outside" "$work/bin"
cp go/examples/echo/main.go "$work/outside/main.go"
# What cgo needs, and no more: no cargo, no rustc.
for tool in go gcc cc ld as ar strip; do
    if command -v "$tool" >/dev/null 2>&1; then ln -s "$(command -v "$tool")" "$work/bin/$tool"; fi
done
outside() {
    (cd "$work/outside" && env -i HOME="$work" PATH="$work/bin" GOPROXY="file://$work/proxy" GOSUMDB=off GOTOOLCHAIN=local \
        GOCACHE="$(go env GOCACHE)" GOFLAGS=-modcacherw "$@")
}
if outside cargo --version >/dev/null 2>&1; then echo "the outside test found cargo" && exit 1; fi
outside go mod init example.com/outside
outside go get "$module@$version"
outside go build -o echo .
if outside env LD_LIBRARY_PATH= ldd ./echo 2>/dev/null | grep machnet; then echo "the program needs a shared library of machnet" && exit 1; fi

# A free port, and lines to wait for: nothing here waits for time.
port="$(cd go/tests && GOWORK=off go run ./freeport)"
wait_for() { timeout 30 sed "/$1/q" "$2" >/dev/null || { echo "nothing said \"$1\"" && exit 1; }; }
mkfifo "$work/sidecar.out" "$work/server.out"
# The sidecar that came with the package, as a person would start it; SIGTERM reaches it because the command becomes it.
outside go build -o machnet "$module/cmd/machnet"
XDG_CACHE_HOME="$work/cache" "$work/outside/machnet" up --no-config --socket "$work/machnet.sock" --address 127.0.0.1 --udp-port "$port" --log-level warn >"$work/sidecar.out" &
sidecar=$!
exec 3<>"$work/sidecar.out"
wait_for '^machnet is up:' "$work/sidecar.out"
MACHNET_SOCKET="$work/machnet.sock" "$work/outside/echo" server :7000 >"$work/server.out" &
server=$!
exec 4<>"$work/server.out"
wait_for '^listening on' "$work/server.out"
MACHNET_SOCKET="$work/machnet.sock" timeout 60 "$work/outside/echo" client 127.0.0.1:7000
# With the tag for an installed library, the command becomes the installed one, and never itself.
(cd go && go build -tags machnet_pkgconfig -o "$work/by-tag/machnet" ./cmd/machnet)
by_tag="$(PATH="$work/by-tag:${MACHNET%/*}:$PATH" "$work/by-tag/machnet" --version)"
[ "$by_tag" = "$("$MACHNET" --version)" ] || { echo "cmd/machnet with the tag machnet_pkgconfig said: $by_tag" && exit 1; }
[ "$(readlink "/proc/$sidecar/exe")" = "$(echo "$work"/cache/machnet/bin/machnet-*)" ] || { echo "$sidecar is not the sidecar" && exit 1; }
kill "$server"
wait "$server" || true
server=''
kill "$sidecar"
wait "$sidecar" || { echo "the sidecar of the package ended with exit code $?" && exit 1; }
sidecar=''
[ "$(outside go run "$module/cmd/machnet" --version)" = "machnet ${version#v}" ] || { echo "go run $module/cmd/machnet --version failed" && exit 1; }
[ "$(outside go run "$module/cmd/machnet@$version" --version)" = "machnet ${version#v}" ] || { echo "go run $module/cmd/machnet@$version --version failed" && exit 1; }
echo "a program outside of the repository: go get $module@$version, go build, go run $module/cmd/machnet up, echo"

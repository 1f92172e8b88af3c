#!/usr/bin/env bash
# The Go SDK in go/: its checks, its tests against real sidecars, and `go get` of it by a program outside of this repository.
# Needs what `cargo build --release --workspace` leaves in target/release.
#   ci/go.sh             everything
#   ci/go.sh prepare     only copies header and library to where cgo finds them
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

version="v$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)"
module=github.com/machnet/machnet/go
target="$(mkdir -p "$target_dir" && cd "$target_dir" && pwd)"
export MACHNET="${MACHNET:-$target/release/machnet}"

skipped() { echo "SKIPPED $1" && exit 0; }

[ "$(uname -sm)" = "Linux x86_64" ] || skipped "go: this version brings the library for Linux on x86-64 only"
[ -e "$target/release/libmachnet.a" ] || { echo "there is no $target/release/libmachnet.a: run \"make build\" first" && exit 1; }

# Without the names for debuggers, which are half of it. Copied only when it changed, so that Go's build cache stays good.
prepare() {
    local library=go/internal/lib/linux_amd64/libmachnet.a fresh
    mkdir -p go/internal/lib/include go/internal/lib/linux_amd64
    fresh="$(mktemp "$target/libmachnet.XXXXXX")"
    strip --strip-debug --enable-deterministic-archives -o "$fresh" "$target/release/libmachnet.a"
    if cmp -s "$fresh" "$library"; then rm "$fresh"; else mv "$fresh" "$library" && chmod 0644 "$library"; fi
    local header
    for header in ffi/include/*.h; do
        cmp -s "$header" "go/internal/lib/include/${header##*/}" || cp "$header" go/internal/lib/include/
    done
}

prepare
[ "${1:-}" = prepare ] && exit
command -v go >/dev/null 2>&1 || skipped "go: Go is not installed"
[ -x "$MACHNET" ] || { echo "there is no $MACHNET: run \"make build\" first" && exit 1; }

unformatted="$(gofmt -l go)"
[ -z "$unformatted" ] || { printf 'gofmt would change:\n%s\n' "$unformatted" && exit 1; }
required="$(cd go && go list -m all)"
[ "$required" = "$module" ] || { printf 'the library has dependencies:\n%s\n' "$required" && exit 1; }
# Never from a cache, which does not know when the sidecar changed.
(cd go && go vet ./... && GODEBUG=cgocheck=1 go test -count=1 -race -timeout 200s ./...)

# The ten lines of the README are the example that was just run.
lines_of() { sed -n "$2" "$1" | grep -v '^[[:space:]]*\(//.*\)\?$' | sed 's/^[[:space:]]*//'; }
readme="$(lines_of go/README.md '/^```go ten-lines$/,/^```$/{//!p}')"
example="$(lines_of go/example_test.go '/^func Example() {$/,/^}$/{//!p}')"
[ -n "$readme" ] && [ "$readme" = "$example" ] || {
    echo "the ten lines of go/README.md are not those of go/example_test.go:"
    diff <(echo "$readme") <(echo "$example")
    exit 1
}

if (cd go/tests && timeout 60 go mod download) >"$target/go-download.log" 2>&1; then
    (cd go/tests && go vet ./... && go test -count=1 -race -timeout 200s ./...)
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
(cd go/tests && go run ./modproxy .. "$module" "$version" "$work/proxy")
mkdir "$work/outside" "$work/bin"
cp go/examples/echo/main.go "$work/outside/main.go"
# What cgo needs, and no more: no cargo, no rustc.
for tool in go gcc cc ld as ar strip; do
    if command -v "$tool" >/dev/null 2>&1; then ln -s "$(command -v "$tool")" "$work/bin/$tool"; fi
done
outside() {
    (cd "$work/outside" && env -i HOME="$work" PATH="$work/bin" GOPROXY="file://$work/proxy" GONOSUMDB="$module" GOSUMDB=off GOTOOLCHAIN=local \
        GOCACHE="$(go env GOCACHE)" GOFLAGS=-modcacherw "$@")
}
if outside cargo --version >/dev/null 2>&1; then echo "the outside test found cargo" && exit 1; fi
outside go mod init example.com/outside
outside go get "$module@$version"
outside go build -o echo .
if outside env LD_LIBRARY_PATH= ldd ./echo 2>/dev/null | grep machnet; then echo "the program needs a shared library of machnet" && exit 1; fi

# A free port, and lines to wait for: nothing here waits for time.
port="$(cd go/tests && go run ./freeport)"
wait_for() { timeout 30 sed "/$1/q" "$2" >/dev/null || { echo "nothing said \"$1\"" && exit 1; }; }
mkfifo "$work/sidecar.out" "$work/server.out"
"$MACHNET" up --no-config --socket "$work/machnet.sock" --address 127.0.0.1 --udp-port "$port" --log-level warn >"$work/sidecar.out" &
sidecar=$!
exec 3<>"$work/sidecar.out"
wait_for '^machnet is up:' "$work/sidecar.out"
MACHNET_SOCKET="$work/machnet.sock" "$work/outside/echo" server :7000 >"$work/server.out" &
server=$!
exec 4<>"$work/server.out"
wait_for '^listening on' "$work/server.out"
MACHNET_SOCKET="$work/machnet.sock" timeout 60 "$work/outside/echo" client 127.0.0.1:7000
echo "a program outside of the repository: go get $module@$version, go build, echo"

# Read by the tests of ci/clean-root.sh, which run in a minimal system as a user without rights.

sidecar=''
fail() { echo "$1" >&2 && exit 1; }

[ "$(id -u)" != 0 ] || fail "this should not be root"
for tool in cargo rustc rustup; do
    if command -v $tool >/dev/null 2>&1; then fail "$tool is here: this is no clean system"; fi
done
cd "$HOME"

# Starts the sidecar with a command, and waits until it is up. Where it listens by default, applications find it by default.
start_sidecar() {
    mkfifo "$HOME/sidecar.out"
    "$@" up --address 127.0.0.1 >"$HOME/sidecar.out" 2>"$HOME/sidecar.err" &
    sidecar=$!
    exec 3<>"$HOME/sidecar.out"
    timeout 60 sed '/^machnet is up:/q' <&3 | grep '^machnet is up:' || { cat "$HOME/sidecar.err" >&2 && fail "\"$* up\" did not start"; }
}

# Ends it in order, by the process that was started: SIGTERM must reach the sidecar.
stop_sidecar() {
    kill "$sidecar"
    wait "$sidecar" || fail "the sidecar ended with exit code $?"
}

# Compares what a program said.
expect() {
    [ "$1" = "$2" ] || fail "expected \"$1\", and it said \"$2\""
    echo "$2"
}

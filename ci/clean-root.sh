#!/usr/bin/env bash
# Installs the packages of target/dist where a user would: in a minimal Debian 12 that has the language and nothing of Rust. As a user
# without rights, it starts the sidecar out of the package and runs the lines with which that language's README begins.
#
#   ci/clean-root.sh                  every language
#   ci/clean-root.sh python c         these: c, python, go, node, csharp
#   ci/clean-root.sh --list           what each needs
#
# Each language has a root of its own, kept among the tools ($CI_TOOLS_DIR) and never written to again: a run sees it through an
# overlay in memory, with namespaces of its own for mounts, processes and network, so that nothing of it reaches this machine. The
# first run downloads Debian's packages. CLEAN_SUITE=bullseye takes an older Debian. It needs root, debootstrap and overlayfs, and says
# aloud if it must do without.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

# language; Debian's packages in its root; a file of target/dist that must be there. The test is ci/clean-root/LANGUAGE.sh.
table() {
    cat <<TABLE
c       gcc,libc6-dev,pkg-config    c/machnet-$version-linux-$platform.tar.gz
python  python3,python3-venv        python/machnet-$version-cp311-abi3-manylinux_2_28_$platform.whl
go      gcc,libc6-dev               go/github.com/machnet/machnet/go/@v/v$version.zip
node    libstdc++6                  node/machnet-$version.tgz
csharp  libstdc++6,zlib1g           csharp/Machnet.$version.nupkg
TABLE
}

# Where Debian 12 has none that is new enough, this machine lends its own: words "FROM:TO". Fails with the reason.
lent_to() {
    local npm
    case "$1" in
        go)
            command -v go >/dev/null 2>&1 || { echo "Go is not installed" && return 1; }
            echo "$(go env GOROOT):/usr/local/go"
            ;;
        node)
            command -v node >/dev/null 2>&1 && npm="$(readlink -f "$(command -v npm)")" || { echo "Node.js or npm is not installed" && return 1; }
            echo "$(readlink -f "$(command -v node)"):/usr/bin/node ${npm%/bin/*}:/usr/lib/npm"
            ;;
        csharp)
            local dotnet
            dotnet="$(find "$tools_dir" -maxdepth 1 -name 'dotnet-sdk-*' | sort | tail -n 1)"
            [ -n "$dotnet" ] || { echo "there is no .NET, which ci/csharp.sh fetches" && return 1; }
            echo "$dotnet:/opt/dotnet"
            ;;
    esac
}

version="$(version_of_workspace)"
platform="$(uname -m)"
roots="$tools_dir/clean-root"
dist="$(realpath -m "$target_dir/dist")"
here="$PWD/ci/clean-root"
suite="${CLEAN_SUITE:-bookworm}"

languages=()
for argument in "$@"; do
    case "$argument" in
        -h | --help) sed -n '2,/^set /{/^# \?/!d; s/^# \?//; p}' ci/clean-root.sh && exit ;;
        --list) table && exit ;;
        *)
            table | grep "^$argument " >/dev/null || { echo "ci/clean-root.sh: there is no row '$argument'" >&2 && exit 2; }
            languages+=("$argument")
            ;;
    esac
done
[ ${#languages[@]} -gt 0 ] || mapfile -t languages < <(table | awk '{ print $1 }')

skip_all() { echo "SKIPPED clean-root: $1" && exit 0; }
[ "$(id -u)" = 0 ] || skip_all "only root can make a root for another system"
if ! command -v debootstrap >/dev/null 2>&1; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap </dev/null >/dev/null 2>&1 ||
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap; } </dev/null >/dev/null 2>&1 ||
        skip_all "debootstrap is not installed"
fi
for tool in unshare chroot ip; do command -v $tool >/dev/null 2>&1 || skip_all "$tool is not installed"; done
mkdir -p "$roots"
unshare --mount --net --pid --fork true 2>/dev/null || skip_all "this machine allows no namespaces"

# ---- roots: one that all share, and what each language adds to it --------------------------------------------------------

# A folder that is only there when it is whole.
make_base() {
    [ -d "$roots/$suite" ] && return
    echo "making a minimal $suite (once)"
    rm -rf "$roots/$suite.new"
    debootstrap --variant=minbase --include=libgcc-s1 "$suite" "$roots/$suite.new" >"$roots/debootstrap.log" 2>&1 || {
        tail -n 5 "$roots/debootstrap.log"
        return 1
    }
    rm -rf "$roots/$suite.new"/var/cache/apt/archives/*.deb
    mv "$roots/$suite.new" "$roots/$suite"
}

# What apt-get adds for these packages, as a layer of its own.
make_layer() {
    local name="$1" packages="$2" layer="$roots/$suite-$1"
    cmp -s <(echo "$packages") "$layer/packages" && return
    echo "installing ${packages//,/ } for $name (once)"
    rm -rf "$layer" "$layer.new"
    mkdir -p "$layer.new/upper" "$layer.new/work" "$layer.new/system"
    # shellcheck disable=SC2016
    LAYER="$layer.new" BASE="$roots/$suite" PACKAGES="${packages//,/ }" unshare --mount --pid --fork bash -euc '
        mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$LAYER/upper,workdir=$LAYER/work" "$LAYER/system"
        mount -t proc proc "$LAYER/system/proc"
        cp /etc/resolv.conf "$LAYER/system/etc/resolv.conf"
        in_root() { chroot "$LAYER/system" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
        in_root apt-get update
        in_root apt-get install -y --no-install-recommends $PACKAGES
        in_root apt-get clean
    ' >"$layer.log" 2>&1 </dev/null || { tail -n 5 "$layer.log" && return 1; }
    rm -rf "$layer.new/upper"/var/lib/apt/lists/* "$layer.new/system" "$layer.new/work"
    echo "$packages" >"$layer.new/packages"
    mv "$layer.new" "$layer"
}

# ---- a run: everything below happens in namespaces of its own ------------------------------------------------------------

# The lines of a README between ```$2 and ```.
lines_of() { awk -v start="\`\`\`$2" '$0 == start { on = 1; next } on && /^```$/ { exit } on' "$1"; }

run() {
    local language="$1" inside file
    inside="$(mktemp -d)"
    # What the test reads beside the package: its own lines, and those of the READMEs.
    mkdir "$inside/test"
    cp "$here/$language.sh" "$here/common.sh" "$inside/test/"
    case "$language" in
        c) lines_of README.md 'c run=client' >"$inside/test/client.c" ;;
        python) lines_of python/README.md python >"$inside/test/lines.py" ;;
        go) lines_of go/README.md 'go ten-lines' >"$inside/test/lines.go" ;;
        node) lines_of node/README.md js >"$inside/test/lines.mjs" ;;
        csharp) lines_of csharp/README.md 'csharp ten-lines' >"$inside/test/lines.cs" ;;
    esac
    for file in "$inside"/test/client.c "$inside"/test/lines.*; do
        [ ! -e "$file" ] || [ -s "$file" ] || { echo "the README of $language has no lines to run" && return 1; }
    done
    # shellcheck disable=SC2016
    INSIDE="$inside" LOWER="$roots/$suite-$language/upper:$roots/$suite" DIST="$dist" LENT="$2" CACHE="$roots/cache-$language" \
        LANGUAGE_NAME="$language" VERSION="$version" PLATFORM="$platform" timeout --kill-after=5 240 \
        unshare --mount --net --pid --ipc --uts --fork --kill-child bash -euc '
        root="$INSIDE/system"
        mkdir "$INSIDE/changes"
        mount -t tmpfs tmpfs "$INSIDE/changes"
        mkdir "$INSIDE/changes/upper" "$INSIDE/changes/work" "$root"
        mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$INSIDE/changes/upper,workdir=$INSIDE/changes/work" "$root"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        ip link set lo up
        useradd() { echo "user:x:1000:1000::/user:/bin/bash" >>"$root/etc/passwd"; echo "user:x:1000:" >>"$root/etc/group"; }
        useradd
        install -d -o 1000 -g 1000 "$root/user"
        # Read only: what is lent, the packages, the test.
        lend() {
            if [ -d "$1" ]; then mkdir -p "$root$2"; else touch "$root$2"; fi
            mount --bind "$1" "$root$2" && mount -o remount,bind,ro "$root$2"
        }
        lend "$DIST" /dist
        lend "$INSIDE/test" /test
        for pair in $LENT; do lend "${pair%%:*}" "${pair#*:}"; done
        # What only makes the next run quicker, such as a compiler that keeps what it compiled.
        install -d -o 1000 -g 1000 "$CACHE" "$root/cache"
        mount --bind "$CACHE" "$root/cache"
        chroot --userspec=1000:1000 "$root" env -i HOME=/user PATH=/usr/local/go/bin:/usr/bin:/bin LANG=C.UTF-8 \
            VERSION="$VERSION" PLATFORM="$PLATFORM" TMPDIR=/tmp bash -eu -o pipefail "/test/$LANGUAGE_NAME.sh"
    ' </dev/null
    local code=$?
    rm -rf "$inside"
    return $code
}

passed=0 failed=()
for language in "${languages[@]}"; do
    read -r _ packages artefact < <(table | grep "^$language ")
    [ -e "$dist/$artefact" ] || { echo "SKIPPED clean-root: $language: there is no $dist/$artefact: ci/dist.sh makes it" && continue; }
    lent="$(lent_to "$language")" || { echo "SKIPPED clean-root: $language: $lent" && continue; }
    make_base || skip_all "debootstrap could not make a root; $roots/debootstrap.log says why"
    make_layer "$language" "$packages" || { echo "SKIPPED clean-root: $language: its packages cannot be installed" && continue; }
    began=$SECONDS
    if run "$language" "$lent"; then
        passed=$((passed + 1))
        echo "clean-root: $language ok, $((SECONDS - began)) s"
    else
        failed+=("$language")
        echo "clean-root: $language FAILED"
    fi
done
echo "test result: $([ ${#failed[@]} = 0 ] && echo ok || echo FAILED). $passed passed; ${#failed[@]} failed"
[ ${#failed[@]} = 0 ]

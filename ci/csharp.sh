#!/usr/bin/env bash
# The .NET SDK in csharp/: its declarations, its tests against real sidecars, its packages, and the README's ten lines in a project outside
# of this repository. Needs what `cargo build --release --workspace` leaves in target/release.
#
# ci/dotnet.sh fetches .NET.
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
native="$work/native/linux-x64"
mkdir -p "$native"

. ci/dotnet.sh
fetch_dotnet || skip "csharp: $dotnet_reason"

# Without the names for debuggers, which are half of it. Copied only when it changed, so that what was built stays good.
stage() {
    local fresh="$work/native/$2.fresh"
    strip --strip-debug -o "$fresh" "$1"
    if cmp -s "$fresh" "$native/$2"; then rm "$fresh"; else mv "$fresh" "$native/$2"; fi
}

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

version="$(version_of_workspace)"
pack "$work/build/packages"
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

#!/usr/bin/env bash
# The packages of a release for .NET, as ci/dist.sh asks for them:
#
#   MACHNET_PORTABLE=FOLDER ci/dist-csharp.sh OUT PLATFORM...
#
# Machnet, Machnet.Native with the library of every platform, and Machnet.Tool with the sidecar of every platform.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

out="$1"
shift
work="$(mkdir -p "$target_dir/csharp-dist" && cd "$target_dir/csharp-dist" && pwd)"
. ci/dotnet.sh
fetch_dotnet || { echo "SKIPPED dist: csharp: $dotnet_reason" && exit 0; }

rm -rf "$work/native"
for platform in "$@"; do
    case "$platform" in
        x86_64) folder="$work/native/linux-x64" ;;
        aarch64) folder="$work/native/linux-arm64" ;;
        *) echo "ci/dist-csharp.sh: there is no platform '$platform'" >&2 && exit 2 ;;
    esac
    mkdir -p "$folder"
    install -m 0755 "$MACHNET_PORTABLE/$platform/machnet" "$MACHNET_PORTABLE/$platform/libmachnet.so" "$folder/"
done
pack "$out"

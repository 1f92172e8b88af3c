#!/usr/bin/env bash
# Packs the NuGet packages: Machnet, Machnet.Native with the library of each platform, Machnet.Tool with the sidecars.
#   ci/dist-csharp.sh FOLDER PLATFORM...     PLATFORM is x86_64 or aarch64; called by ci/dist.sh, after ci/portable.sh
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,/^set /{/^# \?/!d; s/^# \?//; p}' ci/dist-csharp.sh && exit 2; }
[ -x ci/csharp.sh ] || { echo "SKIPPED dist: csharp: there is no csharp/ yet" && exit 0; }
case " ${*:2} " in
    *' x86_64 '*) ;;
    *) echo "SKIPPED dist: csharp: the packages are made for x86_64, or for that and aarch64" && exit 0 ;;
esac
ci/csharp.sh --pack "$(realpath "$1")" "${@:2}" | sed 's/^SKIPPED /SKIPPED dist: /'

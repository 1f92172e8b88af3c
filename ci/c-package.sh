#!/usr/bin/env bash
# Builds C and C++ programs against an installed library, as its users do: through pkg-config and through CMake, shared and static,
# and runs them.
#   ci/c-package.sh PREFIX     PREFIX: what `make install` was given, with its DESTDIR before it
set -euo pipefail
prefix="$(cd "$1" && pwd)"
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# No sidecar is needed to learn that there is none.
export MACHNET_SOCKET="$work/nowhere.sock"
cp ffi/tests/c/nulls.c "$work/program.c"
strict=(-Wall -Wextra -pedantic -Werror)

asked_for="$(readelf -d "$prefix/lib/libmachnet.so" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')"
[ "$asked_for" = libmachnet.so.0 ] || { echo "the shared library is called '$asked_for'" && exit 1; }
[ -e "$prefix/lib/$asked_for" ] || { echo "there is no $prefix/lib/$asked_for" && exit 1; }

if command -v pkg-config >/dev/null 2>&1; then
    export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
    read -ra flags < <(pkg-config --cflags --libs machnet)
    cc -std=c11 "${strict[@]}" "$work/program.c" "${flags[@]}" -o "$work/shared"
    LD_LIBRARY_PATH="$prefix/lib" "$work/shared"
    readelf -d "$work/shared" | grep -q 'NEEDED.*libmachnet\.so\.0' || { echo "the program does not ask for libmachnet.so.0" && exit 1; }
    read -ra flags < <(pkg-config --static --cflags --libs machnet)
    flags=("${flags[@]/#-lmachnet/-l:libmachnet.a}")
    cc -std=c11 "${strict[@]}" "$work/program.c" "${flags[@]}" -o "$work/static"
    "$work/static"
    c++ -x c++ -std=c++17 "${strict[@]}" -c ffi/tests/c/layout.c "${flags[0]}" -o "$work/layout.o"
    echo "pkg-config: shared, static and C++ $(pkg-config --modversion machnet)"
else
    echo "SKIPPED: c-package: pkg-config is not installed"
fi

if command -v cmake >/dev/null 2>&1; then
    version="$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)"
    cat >"$work/CMakeLists.txt" <<CMAKE
cmake_minimum_required(VERSION 3.13)
project(program C)
find_package(machnet ${version%.*} REQUIRED)
add_executable(with_shared program.c)
target_link_libraries(with_shared machnet::machnet)
add_executable(with_static program.c)
target_link_libraries(with_static machnet::static)
CMAKE
    cmake -S "$work" -B "$work/build" -DCMAKE_PREFIX_PATH="$prefix" >"$work/log" 2>&1 || { cat "$work/log" && exit 1; }
    cmake --build "$work/build" >"$work/log" 2>&1 || { cat "$work/log" && exit 1; }
    "$work/build/with_shared"
    "$work/build/with_static"
    sed -i "s/find_package(machnet [0-9.]*/find_package(machnet 99.0/" "$work/CMakeLists.txt"
    if cmake -S "$work" -B "$work/newer" -DCMAKE_PREFIX_PATH="$prefix" >/dev/null 2>&1; then
        echo "CMake took version $version for 99.0" && exit 1
    fi
    echo "CMake: shared and static, version $version"
else
    echo "SKIPPED: c-package: cmake is not installed"
fi

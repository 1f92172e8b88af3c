#!/usr/bin/env bash
# Fails if a binary needs a newer C library than glibc 2.28, or a library that is not part of every Linux: reads the versioned
# symbols that each ELF file asks for. A static library asks for none: whatever it has is linked against the symbols of glibc 2.28.
# Works for any processor's files.
#
#   ci/glibc.sh FILE...                         ELF files; of .zip, .whl, .tgz, .tar.gz and .nupkg all that are in them
#   ci/glibc.sh --platform PLATFORM FILE...     also fails if one is for another processor: x86_64 or aarch64
#   ci/glibc.sh --if-any FILE...                an archive without any ELF file is no failure
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/common.sh

# Those that manylinux_2_28 allows and that we have a use for.
allowed_libraries=' libc.so.6 libm.so.6 libpthread.so.0 libdl.so.2 librt.so.1 libgcc_s.so.1 ld-linux-x86-64.so.2 ld-linux-aarch64.so.1 '

platform='' if_any=''
while :; do
    case "${1:-}" in
        -h | --help | '') sed -n '2,/^set /{/^# \?/!d; s/^# \?//; p}' ci/glibc.sh && exit $(($# == 0 ? 2 : 0)) ;;
        --platform) platform="$2" && shift 2 ;;
        --if-any) if_any=1 && shift ;;
        *) break ;;
    esac
done
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

processor_of() { readelf -h "$1" 2>/dev/null | sed -n 's/^ *Machine: *//p' | sed 's/.*X86-64.*/x86_64/; s/AArch64/aarch64/' | sort -u; }

found=0 bad=0
complain() { echo "$1" >&2 && bad=1; }

check_processor() {
    [ -z "$platform" ] || [ "$(processor_of "$2")" = "$platform" ] ||
        complain "$1 is for '$(processor_of "$2" | tr '\n' ' ')', not for $platform"
}

check_elf() {
    local name="$1" file="$2" newest library
    found=$((found + 1))
    check_processor "$name" "$file"
    newest="$(readelf -W --version-info "$file" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -V | tail -n 1)"
    if [ "$(printf '%s\n' "$oldest_glibc" "${newest:-0}" | sort -V | tail -n 1)" != "$oldest_glibc" ]; then
        complain "$name needs glibc $newest; packages must do with $oldest_glibc. These symbols ask for more:"
        readelf -W --dyn-syms "$file" | grep -o '[^ ]*@GLIBC_[0-9.]*' | sort -u | while read -r symbol; do
            [ "$(printf '%s\n' "$oldest_glibc" "${symbol##*_}" | sort -V | tail -n 1)" = "$oldest_glibc" ] || echo "    $symbol" >&2
        done
    fi
    while read -r library; do
        case "$allowed_libraries" in
            *" $library "*) ;;
            *) complain "$name needs $library, which not every Linux has" ;;
        esac
    done < <(readelf -d "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    # ci/portable.sh tells why.
    readelf -W --dyn-syms "$file" | grep ' UND _Unwind_Resume' >/dev/null || complain "$name has an unwinder of its own, not the system's"
    if readelf -d "$file" | grep -E 'R(UN)?PATH' >/dev/null; then complain "$name looks for libraries in a folder of the machine that built it"; fi
    echo "$name: glibc ${newest:-none at all}"
}

check_static() {
    local name="$1" file="$2" processor
    found=$((found + 1))
    check_processor "$name" "$file"
    processor="$(processor_of "$file")"
    echo 'int main(void) { return 0; }' >"$work/main.c"
    local zig="$packaging_tools/bin/python-zig"
    [ -x "$zig" ] && [ -e "$target_dir/portable-build/unwinder-$processor" ] || { complain "$name: run ci/portable.sh $processor first" && return; }
    if "$zig" cc -target "$processor-linux-gnu.$oldest_glibc" -o "$work/linked" "$work/main.c" \
        -Wl,--whole-archive "$file" -Wl,--no-whole-archive "$target_dir/portable-build/unwinder-$processor/libgcc_s.so.1" -lpthread -ldl -lm >"$work/log" 2>&1; then
        check_elf "$name, linked" "$work/linked" && found=$((found - 1))
    else
        head -n 20 "$work/log" >&2
        complain "$name cannot be linked against glibc $oldest_glibc"
    fi
}

check() {
    local name="$1" file="$2" inside folder
    case "$file" in
        *.zip | *.whl | *.nupkg | *.tgz | *.tar.gz)
            folder="$work/$((RANDOM))-${file##*/}"
            mkdir "$folder"
            case "$file" in
                *.tgz | *.tar.gz) tar -xzf "$file" -C "$folder" ;;
                *) python3 -m zipfile -e "$file" "$folder" ;;
            esac
            while read -r inside; do
                check "$name: ${inside#"$folder"/}" "$inside"
            done < <(find "$folder" -type f | sort)
            rm -rf "$folder"
            ;;
        *.a) check_static "$name" "$file" ;;
        *) if [ "$(head -c 4 "$file" | tr -d '\0')" = $'\x7fELF' ]; then check_elf "$name" "$file"; fi ;;
    esac
}

for file in "$@"; do
    before=$found
    check "${file##*/}" "$file"
    [ -n "$if_any" ] || [ $found -gt $before ] || complain "$file has no ELF file to check"
done
[ $bad = 0 ]

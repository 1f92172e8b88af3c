#!/usr/bin/env bash
# Prints what the C headers mean to the C compiler: size and offsets of every struct, every constant, every function. The tests of the SDKs that
# have declarations of their own compare them with it.
#
#     size machnet_address_t 20
#     offset machnet_address_t port 16
#     constant MACHNET_STATUS_OK 0
#     function machnet_version
set -euo pipefail
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# Without comments, a declaration a line; the bodies of structs and enums on the line of their beginning.
cat ffi/include/machnet_common.h ffi/include/machnet.h | tr '\n' '\v' | sed 's|/\*[^*]*\*\+\([^/*][^*]*\*\+\)*/||g' | tr '\v' '\n' |
    sed 's|//.*||' >"$work/plain.h"

{
    echo '#include <stdio.h>'
    echo '#include <stddef.h>'
    echo '#include <machnet.h>'
    echo 'int main(void) {'
    # Structs: "typedef struct [NAME] { FIELDS } NAME;"
    grep -v '^#' "$work/plain.h" | tr '\n' ' ' | grep -o 'typedef struct[^{};]*{[^}]*} *[A-Za-z_]*' | while read -r struct; do
        name="${struct##*\}}"
        name="${name// /}"
        echo "printf(\"size $name %zu\\n\", sizeof($name));"
        body="${struct#*\{}"
        body="${body%\}*}"
        tr ';' '\n' <<<"$body" | sed -n 's/^.*[ *]\([a-z_][a-z_0-9]*\)\(\[[0-9]*\]\)\? *$/\1/p' | while read -r field; do
            echo "printf(\"offset $name $field %zu\\n\", offsetof($name, $field));"
        done
    done
    sed -n 's/^#define \(MACHNET_[A-Z_]*\) [0-9].*/\1/p' "$work/plain.h" | while read -r constant; do
        echo "printf(\"constant $constant %lld\\n\", (long long)($constant));"
    done
    sed -n 's/^ *\(MACHNET_STATUS_[A-Z_]*\) = .*/\1/p' "$work/plain.h" | while read -r constant; do
        echo "printf(\"constant $constant %lld\\n\", (long long)($constant));"
    done
    echo 'return 0; }'
} >"$work/layout.c"
cc -std=c11 -Wall -Werror -I ffi/include "$work/layout.c" -o "$work/layout"
"$work/layout"
sed -n '/^extern "C" {/,/^}/p' "$work/plain.h" | grep -o 'machnet_[a-z_]*(' | sed 's/^/function /; s/($//'

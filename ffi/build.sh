#!/bin/sh
# Builds libmachnet and gives it its second name, so that old programs link with -lmachnet_shim.
#   ffi/build.sh [debug|release]     default: release. Prints the folder of the libraries.
set -eu
cd "$(dirname "$0")/.."
profile=${1:-release}
case $profile in
debug) cargo build --quiet -p machnet-ffi ;;
release) cargo build --quiet --release -p machnet-ffi ;;
*) echo "ffi/build.sh: profile is debug or release, not '$profile'" >&2; exit 2 ;;
esac
folder=${CARGO_TARGET_DIR:-$PWD/target}/$profile
ln -sf libmachnet.so "$folder/libmachnet.so.0"
ln -sf libmachnet.so "$folder/libmachnet_shim.so"
ln -sf libmachnet.a "$folder/libmachnet_shim.a"
echo "$folder"

# Shared by the scripts of this folder; read with `.` from the repository's root.

# rustup's cargo first: the one of Debian 12 is too old for this workspace.
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
export PATH

# Where cargo puts what it builds.
target_dir="${CARGO_TARGET_DIR:-target}"

# Tools that the tests need and no distribution has, one folder per version.
tools_dir="${CI_TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/machnet-tools}"
cargo_deny_version=0.20.2
cargo_deny="$tools_dir/cargo-deny-$cargo_deny_version/bin/cargo-deny"

# The version of everything: ci/versions.sh compares the others with it.
version_of_workspace() { sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1; }

# What builds packages; ci/portable.sh puts it there. Packages must run with this C library and any newer one.
packaging_tools="$tools_dir/packaging"
oldest_glibc=2.28

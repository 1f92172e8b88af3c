#!/usr/bin/env bash
# One version for everything: that of the workspace in Cargo.toml. Compares all other places where one stands, or changes them.
#
#   ci/versions.sh                   fails and names each place that has another version
#   ci/versions.sh --set X.Y.Z       writes the version everywhere, Cargo.toml first
#   ci/versions.sh --list            the places
#
# A place is a file and a pattern with one group, the version. A file that is not there yet has none; a file in which a pattern
# finds nothing is a mistake, because then nobody would notice.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 - "$@" <<'PYTHON'
import re
import subprocess
import sys
from pathlib import Path

NUMBER = r"(\d+\.\d+\.\d+(?:-[0-9A-Za-z.]+)?)"

# What takes its version from the workspace by itself is not here: the crates, the wheels (from python/Cargo.toml), pkg-config and
# CMake files, `machnet --version`, machnet_version().
PLACES = [
    # Python: pyproject.toml takes it from here.
    ("python/Cargo.toml", rf'(?m)^name = "machnet-python"\n(?:.*\n)*?version = "{NUMBER}"'),
    ("python/Cargo.lock", rf'name = "machnet-python"\nversion = "{NUMBER}"'),
    ("python/Cargo.lock", rf'name = "machnet-client"\nversion = "{NUMBER}"'),
    # The workspace's own lock file.
    ("Cargo.lock", rf'name = "machnet-client"\nversion = "{NUMBER}"'),
    ("Cargo.lock", rf'name = "machnet-engine"\nversion = "{NUMBER}"'),
    ("Cargo.lock", rf'name = "machnet-ffi"\nversion = "{NUMBER}"'),
    # Node.
    ("node/package.json", rf'(?m)^  "version": "{NUMBER}"'),
    ("node/Cargo.toml", rf'(?m)^version = "{NUMBER}"'),
    ("node/Cargo.lock", rf'name = "machnet-node"\nversion = "{NUMBER}"'),
    ("node/Cargo.lock", rf'name = "machnet-client"\nversion = "{NUMBER}"'),
    # C#.
    ("csharp/Directory.Build.props", rf"<Version>{NUMBER}</Version>"),
]

# Files with a version of their own that nothing else may have: globs, and a pattern that stands for any version of Machnet.
EVERYWHERE = [
    # Go: the modules of the platforms come with the module.
    ("*/**/go.mod", rf"/go/platform/linux_\w+ v{NUMBER}"),
    ("CHANGELOG.md", rf"(?m)^## \[?(?:v)?{NUMBER}\]?"),
    ("node/npm/*/package.json", rf'(?m)^  "version": "{NUMBER}"'),
    ("node/package.json", rf'"@?machnet[^"]*": "{NUMBER}"'),
    ("csharp/**/*.csproj", rf"<(?:Package)?Version>{NUMBER}</(?:Package)?Version>"),
    ("csharp/**/*.csproj", rf'Include="Machnet[.\w]*" Version="{NUMBER}"'),
    ("*/README.md", rf"machnet[-@/=a-z]*[=@-]v?{NUMBER}"),
    ("docs/*.md", rf"machnet[-@/=a-z]*[=@-]v?{NUMBER}"),
    ("README.md", rf"(?:machnet[-@/=a-z]*[=@-]v?|release ){NUMBER}"),
    ("ffi/include/machnet.h", rf'text, such as "{NUMBER}"'),
    ("ffi/src/channel.rs", rf'text, such as "{NUMBER}"'),
    ("go/channel.go", rf'such as "{NUMBER}"'),
]


def workspace():
    text = Path("Cargo.toml").read_text()
    return re.search(rf'\[workspace\.package\]\nversion = "{NUMBER}"', text)[1]


def places():
    """(path, pattern, must it be there)"""
    for name, pattern in PLACES:
        if Path(name).exists():
            yield Path(name), pattern, True
    for glob, pattern in EVERYWHERE:
        for path in sorted(Path().glob(glob)):
            if not {"node_modules", "target", "bin", "obj"} & set(path.parts):
                yield path, pattern, False


def as_number(version):
    """The version as C programs compare it."""
    major, minor, patch = (int(part) for part in version.split("-")[0].split("."))
    return major << 16 | minor << 8 | patch


# The same number in the library and in the header that is made from it: a pattern, and how it is written there.
AS_NUMBER = [
    ("ffi/src/channel.rs", r"pub const MACHNET_VERSION: u32 = (\w+);", lambda n: f"0x{n >> 16:02x}_{n >> 8 & 255:02x}_{n & 255:02x}"),
    ("ffi/include/machnet.h", r"#define MACHNET_VERSION (\w+)", str),
]


def check():
    version, wrong, seen = workspace(), [], 0
    for path, pattern, required in places():
        found = list(re.finditer(pattern, path.read_text()))
        # Of the changes only the newest is this version.
        found = found[:1] if path.name == "CHANGELOG.md" else found
        if required and not found:
            wrong.append(f"{path}: no version is where {pattern!r} looks for it")
        for hit in found:
            seen += 1
            if hit[1] != version:
                line = path.read_text()[: hit.start(1)].count("\n") + 1
                wrong.append(f"{path}:{line}: {hit[1]}")
    for name, pattern, written in AS_NUMBER:
        found = re.search(pattern, Path(name).read_text())
        seen += 1
        if not found or found[1] != written(as_number(version)):
            wrong.append(f"{name}: MACHNET_VERSION is {found and found[1]}, not {written(as_number(version))}")
    if wrong:
        print(f"the version is {version} (Cargo.toml), but:", *wrong, "ci/versions.sh --set X.Y.Z writes it everywhere", sep="\n  ")
        sys.exit(1)
    print(f"{version} in all {seen} places")


def replaced(hit, with_what):
    """The text of a hit with another first group."""
    start = hit.start(1) - hit.start(0)
    return hit[0][:start] + with_what + hit[0][start + len(hit[1]) :]


def change(version):
    if not re.fullmatch(NUMBER, version):
        sys.exit(f"{version} is no version: three numbers, such as 1.2.3, or 1.2.3-rc.1")
    cargo = Path("Cargo.toml")
    cargo.write_text(cargo.read_text().replace(f'version = "{workspace()}"', f'version = "{version}"', 1))
    for path, pattern, _ in places():
        if path.name in ("CHANGELOG.md", "Cargo.lock"):
            continue  # The one is written by hand, the others by cargo.
        text = path.read_text()
        changed = re.sub(pattern, lambda hit: replaced(hit, version), text)
        if changed != text:
            path.write_text(changed)
    for name, pattern, written in AS_NUMBER:
        text = Path(name).read_text()
        Path(name).write_text(re.sub(pattern, lambda hit: replaced(hit, written(as_number(version))), text))
    for manifest in ("Cargo.toml", "python/Cargo.toml", "node/Cargo.toml"):
        if Path(manifest).exists():
            # Only the packages of this repository get another version.
            subprocess.run(["cargo", "update", "--quiet", "--offline", "--workspace", "--manifest-path", manifest], check=True)
    print("Write the changes of the release into CHANGELOG.md, then run ci/versions.sh and ci/c-header.sh.")


match sys.argv[1:]:
    case []:
        check()
    case ["--list"]:
        for path, pattern, _ in places():
            for hit in re.finditer(pattern, path.read_text()):
                print(f"{path}: {hit[0].splitlines()[-1].strip()}")
    case ["--set", version]:
        change(version)
    case _:
        print("usage: ci/versions.sh [--list | --set X.Y.Z]")
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
PYTHON

"""Makes the wheel for machines that have no wheel of their own, out of one that has a native half: ``make_wheel.py WHEEL FOLDER``.

pip takes it only where no other fits: on macOS, on Windows, and on Linux with another processor or C library. With it a program that
uses Machnet can be installed, imported and type-checked there.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

STANDS_IN = Path(__file__).with_name("_machnet.py")


def is_native(name: str) -> bool:
    """Whether a file of the wheel is for one platform only."""
    return name.endswith(".so") or name.startswith("machnet/bin/")


def main(source: Path, folder: Path) -> None:
    """Writes the wheel and prints its name."""
    name, version, *_ = source.stem.split("-")
    target = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    records = []
    with zipfile.ZipFile(source) as native, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:

        def add(path: str, content: bytes) -> None:
            entry = zipfile.ZipInfo(path)  # Of no date, so that the same files make the same wheel.
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            records.append(f"{path},sha256={digest},{len(content)}")

        for path in sorted(native.namelist()):
            if is_native(path) or path.endswith("/") or path in (f"{info}/RECORD", f"{info}/WHEEL") or "/sboms/" in path:
                continue
            add(path, native.read(path))
        add("machnet/_machnet.py", STANDS_IN.read_bytes())
        add(f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: machnet\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "\n".join([*records, f"{info}/RECORD,,", ""]))
    print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

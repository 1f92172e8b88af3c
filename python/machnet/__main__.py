"""The ``machnet`` command: ``python -m machnet up`` starts the sidecar that came with the package."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

__all__ = ["main"]


def main() -> None:
    """Becomes the ``machnet`` binary of this package or, if the package was built without it, the one on PATH."""
    here = Path(__file__).resolve().parent
    # A script of this package may be on PATH by the same name; it would only come back here.
    ours = Path(sys.argv[0]).resolve().parent
    path = os.pathsep.join(p for p in os.get_exec_path() if Path(p).resolve() != ours)
    bundled = here / "bin" / "machnet"
    binary = str(bundled) if os.access(bundled, os.X_OK) else shutil.which("machnet", path=path)
    if binary is None and not sys.platform.startswith("linux"):
        sys.exit("the sidecar runs on Linux only; run it in a Linux container or virtual machine, with the programs that use it")
    if binary is None:
        sys.exit("this package brings no machnet command for this machine, and there is none on PATH; build one: make install")
    os.execv(binary, ["machnet", *sys.argv[1:]])


if __name__ == "__main__":
    main()

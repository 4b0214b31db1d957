"""Puts what the build directory holds into the source tree and the venv, for development.

Usage: place.py BUILD_DIRECTORY, with the venv's python.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def place(source: Path, target: Path) -> None:
    """Copy under another name and rename: a running container may be using the old file."""
    if not source.exists():
        return
    temporary = target.with_name(target.name + ".new")
    shutil.copy2(source, temporary)
    temporary.replace(target)


def main() -> None:
    build = Path(sys.argv[1])
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name in ("_shim", "_seccomp"):
        for where in (build, build / "csrc/seccomp"):
            place(where / f"{name}{suffix}", ROOT / "ocirt" / f"{name}{suffix}")
    place(build / "_compiled.py", ROOT / "ocirt/spec/_compiled.py")
    place(build / "_commit.py", ROOT / "ocirt/_commit.py")
    place(build / "csrc/init/ocirt-init", ROOT / "ocirt/ocirt-init")
    place(build / "csrc/launcher/ocirt", Path(sys.prefix) / "bin/ocirt")
    # The launcher looks for the package beside its own installation.
    link = Path(sysconfig.get_path("purelib")) / "ocirt"
    if not link.is_symlink():
        if link.exists():
            shutil.rmtree(link)
        link.symlink_to(os.path.relpath(ROOT / "ocirt", link.parent))


if __name__ == "__main__":
    main()

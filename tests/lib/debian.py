"""Debian for tests: packages and a small system from this machine's apt sources, kept for later runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SUITE = "bookworm"
CACHE = Path("/var/cache/ocirt-tests")


def mirror() -> str:
    """Where this machine's apt gets its packages from."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {SUITE}"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = done.stdout.split()
    if not found:
        pytest.fail(f"the apt sources of this machine have no Debian {SUITE}: `apt-get update` reads them")
    return found[0]


def system() -> Path:
    """A root file system made by debootstrap; nobody may change it."""
    directory = CACHE / SUITE
    if not directory.is_dir():
        CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        partial = CACHE / f".{SUITE}.{os.getpid()}"
        words = ["debootstrap", "--variant=minbase", "--include=procps", SUITE, partial, mirror()]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=900)
        if done.returncode:
            shutil.rmtree(partial)
            pytest.fail(f"debootstrap: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        partial.rename(directory)
    return directory


def packages(*names: str) -> list[Path]:
    """The .deb files of packages, in this order."""
    directory = CACHE / "debs"
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    missing = [name for name in names if not list(directory.glob(f"{name}_*.deb"))]
    if missing:
        words = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *missing]
        done = subprocess.run(words, cwd=directory, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.fail(f"apt-get download: {done.stderr[-2000:]}; `apt-get update` may be needed")
    return [sorted(directory.glob(f"{name}_*.deb"))[-1] for name in names]

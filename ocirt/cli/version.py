"""--version: the lines that engines read."""

from __future__ import annotations

from ocirt import __version__
from ocirt.cli.output import out
from ocirt.spec.example import VERSION
from ocirt.version import commit, seccomp_version


def show() -> int:
    out("\n".join(lines()) + "\n")
    return 0


def lines() -> list[str]:
    found = [f"ocirt version {__version__}", f"commit: {commit()}", f"spec: {VERSION}"]
    seccomp = seccomp_version()
    if seccomp:
        found.append(f"libseccomp: {seccomp}")
    return found

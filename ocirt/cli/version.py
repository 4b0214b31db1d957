"""--version: the lines that engines read."""

from __future__ import annotations

from ocirt import __version__
from ocirt.cli.output import out
from ocirt.spec.example import VERSION


def show() -> int:
    out("\n".join(lines()) + "\n")
    return 0


def lines() -> list[str]:
    found = [f"ocirt version {__version__}", f"commit: {commit()}", f"spec: {VERSION}"]
    seccomp = seccomp_version()
    if seccomp:
        found.append(f"libseccomp: {seccomp}")
    return found


def commit() -> str:
    """The commit that was built; unknown when it was not built from a clone."""
    try:
        from ocirt._commit import COMMIT
    except ImportError:
        return "unknown"
    return str(COMMIT)


def seccomp_version() -> str:
    """Version of the libseccomp that is used; empty without it."""
    try:
        from ocirt._seccomp import lib
    except ImportError:
        return ""
    version = lib.seccomp_version()
    return f"{version.major}.{version.minor}.{version.micro}"

"""What this build was made from and with."""

from __future__ import annotations


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

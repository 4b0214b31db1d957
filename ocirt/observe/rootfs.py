"""Root directory, masked and read-only paths, as seen through /proc/PID/root."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from ocirt.observe import mounts

if TYPE_CHECKING:
    from ocirt.verify import Finding, Target


def observe_root(target: Target, _spec: dict[str, Any]) -> list[Finding]:
    """The process has a root of its own."""
    own = os.stat("/")
    theirs = os.stat(target.root)
    same = (own.st_dev, own.st_ino) == (theirs.st_dev, theirs.st_ino)
    return [("root.path", "own root", "host's root" if same else "own root")]


def observe_propagation(target: Target, spec: dict[str, Any]) -> list[Finding]:
    asked = spec["linux"]["rootfsPropagation"]
    root = mounts.top(mounts.read(target), "/")
    if not asked or root is None:
        return []
    # A slave has a master only where the host's mount is shared.
    kind = asked.removeprefix("r")
    actual = root.propagation
    same = actual == kind or (kind, actual) == ("slave", "private")
    return [("linux.rootfsPropagation", kind, kind if same else actual)]


def observe_readonly(target: Target, spec: dict[str, Any]) -> list[Finding]:
    root = mounts.top(mounts.read(target), "/")
    actual = "unknown" if root is None else "true" if "ro" in root.options else "false"
    paths = (spec.get("linux") or {}).get("readonlyPaths") or ()
    asked = spec["root"]["readonly"] or any(mounts.normal(path) == "/" for path in paths)
    return [("root.readonly", str(bool(asked)).lower(), actual)]


def observe_masked_paths(target: Target, spec: dict[str, Any]) -> list[Finding]:
    """A masked file reads as empty, a masked directory lists as empty."""
    found = []
    for i, path in enumerate(spec["linux"]["maskedPaths"]):
        field = f"linux.maskedPaths[{i}] {path}"
        found.append((field, "hidden", _hidden(target, path)))
    return found


def _hidden(target: Target, path: str) -> str:
    from ocirt import kernel

    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = kernel.openat2(target.root, path, flags, 0, kernel.RESOLVE_IN_ROOT)
    except FileNotFoundError:
        return "hidden"  # there is none
    except OSError as error:
        return error.strerror or "unreadable"
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return "hidden" if not os.listdir(fd) else "visible"
        return "hidden" if not os.read(fd, 1) else "visible"
    finally:
        os.close(fd)


def _is_there(target: Target, path: str) -> bool:
    from ocirt import kernel

    try:
        os.close(kernel.openat2(target.root, path, os.O_PATH, 0, kernel.RESOLVE_IN_ROOT))
    except OSError:
        return False
    return True


def observe_readonly_paths(target: Target, spec: dict[str, Any]) -> list[Finding]:
    found = []
    table = mounts.read(target)
    for i, path in enumerate(spec["linux"]["readonlyPaths"]):
        if not _is_there(target, path):
            continue
        mount = mounts.top(table, mounts.inside(target, mounts.normal(path)))
        actual = "read-only" if mount is not None and "ro" in mount.options else "writable"
        found.append((f"linux.readonlyPaths[{i}] {path}", "read-only", actual))
    return found

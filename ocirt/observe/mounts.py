"""Mounts as /proc/PID/mountinfo shows them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ocirt.verify import Finding, Target

FLAGS = ("ro", "nosuid", "nodev", "noexec")


class Mount(NamedTuple):
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    mount_id: int
    parent: int
    root: str
    point: str
    options: frozenset[str]
    propagation: str
    fstype: str
    super_options: frozenset[str]


def read(target: Target) -> list[Mount]:
    """Mounts that the process sees, in the order in which they were made."""
    mounts = []
    for line in target.read("mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        words, tail = left.split(), right.split(" ")
        mounts.append(
            Mount(
                int(words[0]),
                int(words[1]),
                _unescape(words[3]),
                _unescape(words[4]),
                frozenset(words[5].split(",")),
                _propagation(words[6:]),
                tail[0],
                frozenset(tail[-1].split(",")),
            )
        )
    return mounts


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _propagation(fields: list[str]) -> str:
    names = {field.partition(":")[0] for field in fields}
    if "unbindable" in names:
        return "unbindable"
    return "shared" if "shared" in names else "slave" if "master" in names else "private"


def top(mounts: list[Mount], path: str) -> Mount | None:
    """The mount that is seen at the path: the last one made there."""
    return next((mount for mount in reversed(mounts) if mount.point == path), None)


def inside(target: Target, path: str) -> str:
    """The path with the container's own links followed, as mountinfo names it."""
    try:
        where = os.open(f"/proc/{target.pid}/root", os.O_PATH)
    except OSError:
        return path
    try:
        from ocirt import kernel

        fd = kernel.openat2(where, path, os.O_PATH, 0, kernel.RESOLVE_IN_ROOT)
    except OSError:
        return path
    finally:
        os.close(where)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def observe(target: Target, spec: dict[str, Any]) -> list[Finding]:
    """Type and flags of each mount, and its propagation where the document sets one."""
    mounts = read(target)
    found: list[Finding] = []
    paths = [inside(target, normal(asked["destination"])) for asked in spec["mounts"]]
    for i, asked in enumerate(spec["mounts"]):
        later = zip(paths[i + 1 :], spec["mounts"][i + 1 :], strict=True)
        if any(_hides(path, other, paths[i]) for path, other in later):
            continue
        found += _one(mounts, f"mounts[{i}] {asked['destination']}", asked, paths[i])
    return found


def normal(path: str) -> str:
    """Absolute, and with single slashes."""
    return os.path.normpath("/" + path.lstrip("/"))


def _hides(path: str, later: dict[str, Any], earlier: str) -> bool:
    """Does the later mount, on path, lie over the earlier one? A remount only changes its own."""
    above = earlier.startswith(f"{path}/") and "remount" not in (later.get("options") or ())
    return path == earlier or above


def _one(mounts: list[Mount], field: str, asked: dict[str, Any], path: str) -> list[Finding]:
    words = asked.get("options") or []
    mount = top(mounts, path)
    if mount is None:
        return [(field, "mounted", "not mounted")]
    bind = asked.get("type") == "bind" or "bind" in words or "rbind" in words
    kind = "bind" if bind else asked.get("type", "")
    if kind in ("cgroup", "cgroup2"):
        actual = kind if mount.fstype in ("cgroup", "cgroup2", "tmpfs") else mount.fstype
    else:
        actual = kind if bind else mount.fstype
    wanted = [word for word in FLAGS if word in words]
    has = [word for word in FLAGS if word in mount.options and (word in wanted or not bind)]
    found = [(field, " ".join([kind, *wanted]), " ".join([actual, *has]))]
    for word in words:
        name = word.removeprefix("r") if word not in ("ro", "rw", "relatime") else word
        if name in ("private", "slave", "shared", "unbindable"):
            found.append((f"{field} propagation", name, mount.propagation))
    return found

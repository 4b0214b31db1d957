"""Namespaces, id maps and uts names as the kernel has them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocirt.verify import Finding, Target

FILES = {
    "user": "user",
    "pid": "pid",
    "mount": "mnt",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "time": "time",
}


def observe(target: Target, spec: dict[str, Any]) -> list[Finding]:
    """New namespaces differ from ours, joined ones are those of the path, the rest is ours."""
    found = []
    entries = {entry["type"]: entry.get("path") for entry in spec["linux"]["namespaces"]}
    for kind, name in FILES.items():
        ours, theirs = os.readlink(f"/proc/self/ns/{name}"), target.link(f"ns/{name}")
        field = f"linux.namespaces.{kind}"
        if kind not in entries:
            found.append((field, "host", "host" if ours == theirs else "new"))
        elif not entries[kind]:
            found.append((field, "new", "host" if ours == theirs else "new"))
        else:
            found.append((field, entries[kind], _joined(entries[kind], theirs)))
    for field, file in (("uidMappings", "uid_map"), ("gidMappings", "gid_map")):
        asked = spec["linux"].get(field)
        if asked and "user" in entries:
            words = [" ".join(line.split()) for line in target.read(file).splitlines()]
            wanted = [f"{m['containerID']} {m['hostID']} {m['size']}" for m in asked]
            found.append((f"linux.{field}", ", ".join(wanted), ", ".join(words)))
    offsets = spec["linux"].get("timeOffsets") or {}
    if offsets:
        lines = (line.split() for line in target.read("timens_offsets").splitlines())
        inside = {line[0]: f"{int(line[1])}.{int(line[2]):09}" for line in lines}
        for clock, offset in offsets.items():
            asked = f"{offset.get('secs') or 0}.{offset.get('nanosecs') or 0:09}"
            found.append((f"linux.timeOffsets.{clock}", asked, inside.get(clock, "none")))
    return found


def _joined(path: str, theirs: str) -> str:
    try:
        status = os.stat(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    inode = int(theirs.partition("[")[2].rstrip("]"))
    return path if status.st_ino == inode else theirs


def observe_hostname(target: Target, spec: dict[str, Any]) -> list[Finding]:
    return [("hostname", spec["hostname"], _uts(target)[1])]


def observe_domainname(target: Target, spec: dict[str, Any]) -> list[Finding]:
    return [("domainname", spec["domainname"], _uts(target)[5])]


def _uts(target: Target) -> tuple[str, ...]:
    """uname(2) as the process sees it: a child enters its uts namespace and tells.

    An ordinary user has the power to do so in the user namespace that owns it.
    """
    import ctypes

    kinds = ["uts"] if target.link("ns/user") == os.readlink("/proc/self/ns/user") else ["user", "uts"]

    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            fds = [os.open(f"ns/{kind}", os.O_RDONLY, dir_fd=target.proc) for kind in kinds]
            setns = ctypes.CDLL(None, use_errno=True).setns
            if all(setns(fd, 0) == 0 for fd in fds):
                with open("/proc/sys/kernel/domainname") as file:
                    domain = file.read().strip()
                os.write(write_fd, "\0".join((*os.uname(), domain)).encode())
                status = 0
        finally:
            os._exit(status)
    os.close(write_fd)
    with open(read_fd) as file:
        names = tuple(file.read().split("\0"))
    os.waitpid(pid, 0)
    return names if len(names) == 6 else ("?",) * 6

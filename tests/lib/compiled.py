"""Plans without the machine: a host that is the same everywhere, contexts, and ops as tuples."""

from __future__ import annotations

import posix
from typing import Any

import pytest

from ocirt import kernel, lsm, procfs
from ocirt.context import Context
from ocirt.host import Host
from ocirt.options import CreateOptions
from ocirt.plan import Plan

EVERY_CAPABILITY = (1 << 41) - 1
# Registers of a context's plan, in the order in which they are made.
MOUNT, TARGET, ROOT, NEXT = -1000, -1001, -1002, -1003

V1 = {
    "cgroup_layout": "hybrid",
    "v1_hierarchies": {
        "blkio": "/sys/fs/cgroup/blkio",
        "cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuset": "/sys/fs/cgroup/cpuset",
        "devices": "/sys/fs/cgroup/devices",
        "freezer": "/sys/fs/cgroup/freezer",
        "memory": "/sys/fs/cgroup/memory",
        "name=systemd": "/sys/fs/cgroup/systemd",
        "pids": "/sys/fs/cgroup/pids",
    },
    "unified_mount": "/sys/fs/cgroup/unified",
    "own_cgroups": {
        "": "/init.scope",
        "blkio": "/user.slice",
        "cpu,cpuacct": "/",
        "cpuset": "/",
        "devices": "/user.slice",
        "freezer": "/",
        "memory": "/user.slice",
        "name=systemd": "/init.scope",
        "pids": "/user.slice",
    },
}
V2 = {
    "cgroup_layout": "v2",
    "v1_hierarchies": {},
    "unified_mount": "/sys/fs/cgroup",
    "own_cgroups": {"": "/user.slice/user-0.slice/session-1.scope"},
}


class FixedHost(Host):
    """A machine that is the same everywhere."""

    def __init__(self, **facts: Any) -> None:
        self.euid = 0
        self.in_userns = False
        self.capabilities = EVERY_CAPABILITY
        self.__dict__.update({**V2, **facts})

    def mount_point_of(self, path: str) -> str:
        return "/var" if path.startswith("/var/") else "/"


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of this machine in other ways than through Host."""
    monkeypatch.setattr(lsm, "APPARMOR_ENABLED", "/dev/null")
    monkeypatch.setattr(kernel, "environ", lambda: {b"PATH": b"/usr/bin"})
    monkeypatch.setattr(posix, "access", lambda path, _mode: "user@1000.service" in path)
    monkeypatch.setattr(procfs, "cgroup_paths", lambda pid="self": {"": "/init.scope" if pid == 1 else "/"})


def context(
    kinds: tuple[str, ...] = ("mount",),
    *,
    join: dict[str, str] | None = None,
    facts: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **spec: Any,
) -> Context:
    """A context with the root register made; namespaces: new ones of these kinds, and join."""
    linux = {**spec.pop("linux", {})}
    linux["namespaces"] = [{"type": kind} for kind in kinds]
    linux["namespaces"] += [{"type": kind, "path": path} for kind, path in (join or {}).items()]
    document = {"ociVersion": "1.2.0", "root": {"path": "rootfs"}, **spec, "linux": linux}
    host = FixedHost(**(facts or {}))
    made = CreateOptions(**(options or {}))
    ctx = Context(document, Plan(), bundle="/b", container_id="c", options=made, host=host)
    ctx.root = ctx.plan.register("root")
    return ctx


def ops(ctx: Context) -> list[tuple[Any, ...]]:
    """(kind, field, arguments...)"""
    return [(op.kind, op.field, *op.args) for op in ctx.plan.ops]


def kinds_of(ctx: Context) -> list[str]:
    return [op.kind for op in ctx.plan.ops]

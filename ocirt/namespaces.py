"""linux.namespaces, linux.timeOffsets, uts names and sysctl: isolation as plan ops.

Without a new user or time namespace, the init makes the namespaces before it has the plan and needs
no second stage. Otherwise stage 1 unshares and forks stage 2 with CLONE_PARENT:

    parent             stage 1                        stage 2
    clone3 ----------> cgroup join
                       setns (not owned by ours)
                       unshare(NEWUSER)
    maps  <----MAPS---
                       setresgid, setresuid
                       unshare(the rest)
                       fork ------------------------> the container
    pid   <----------- exit
"""

from __future__ import annotations

import posix

from ocirt import kernel
from ocirt.context import NAMESPACE_TYPES
from ocirt.errors import SpecError
from ocirt.plan import AT_FDCWD, SYNC_MAPS
from ocirt.spec.rules import sysctl_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocirt.context import Context
    from ocirt.plan import Handle

FIELD = "linux.namespaces"
# keyctl(2): all for who possesses it; view, read, search, link for its user's other processes.
KEYRING_ACCESS = 0x3F1B0000


def apply_namespaces(ctx: Context, _value: Any) -> None:
    """Ops that put the init into its namespaces (config-linux.md, Namespaces)."""
    plan = ctx.plan
    new = ctx.new_ns
    if "user" in new and not ctx.has_ns("mount"):
        raise SpecError(FIELD, "a new user namespace needs a mount namespace of its own")
    joins = {kind: _join_handle(ctx, kind, path) for kind, path in ctx.join_ns.items()}
    if not is_staged(ctx):
        plan.add("prctl", FIELD, kernel.PR_SET_DUMPABLE, 0, 0, 0, 0, detail="not dumpable")
        for kind in joins:
            _setns(ctx, kind, joins[kind])
        if "cgroup" in new:
            plan.add("unshare", FIELD, kernel.CLONE_NEWCGROUP, detail="cgroup")
        return
    early = [kind for kind in joins if kind != "user" and "user" in new]
    if "user" not in new:
        plan.add("prctl", FIELD, kernel.PR_SET_DUMPABLE, 0, 0, 0, 0, detail="not dumpable")
    if "user" in joins:
        # Its root owns the other namespaces that were made with it: it comes first.
        _setns(ctx, "user", joins["user"])
        _become_root(ctx)
    for kind in early:
        _setns(ctx, kind, joins[kind])
    rest = clone_flags(new - {"user"})
    if "user" in new:
        together = kernel.CLONE_NEWUSER | (rest & kernel.CLONE_NEWTIME)
        plan.add("unshare", FIELD, together, detail="user")
        rest &= ~kernel.CLONE_NEWTIME
        _time_offsets(ctx)
        plan.add("sync", "linux.uidMappings", SYNC_MAPS)
        plan.at("MAPS", "linux.uidMappings", "write uid_map and gid_map", _write_maps)
        _become_root(ctx)
        plan.add("prctl", FIELD, kernel.PR_SET_DUMPABLE, 0, 0, 0, 0, detail="not dumpable")
    else:
        for kind in joins:
            if kind not in early and kind != "user":
                _setns(ctx, kind, joins[kind])
    if rest:
        names = " ".join(sorted(new - {"user"}))
        plan.add("unshare", FIELD, rest, detail=names)
    if "user" not in new:
        _time_offsets(ctx)
    plan.add("fork", FIELD)


def is_staged(ctx: Context) -> bool:
    """Does the container's process come from a first stage, which enters the namespaces?"""
    return bool({"user", "time"} & ctx.new_ns) or bool({"user", "pid"} & ctx.join_ns.keys())


def first_flags(ctx: Context) -> tuple[int, int]:
    """Flags of the clone, and of what the init unshares before it has the plan.

    The clone takes least of the runtime's time when it makes only what no other call can: a process
    is born into its pid namespace.
    """
    if is_staged(ctx):
        return 0, 0
    # cgroup: only after the join, or the namespace's root would be the runtime's own group
    return clone_flags(ctx.new_ns & {"pid"}), clone_flags(ctx.new_ns - {"pid", "cgroup"})


def clone_flags(kinds: set[str]) -> int:
    flags = 0
    for kind in kinds:
        flags |= getattr(kernel, NAMESPACE_TYPES[kind][1])
    return flags


def _join_handle(ctx: Context, kind: str, path: str) -> Handle:
    index = next(i for i, entry in enumerate(ctx.linux["namespaces"]) if entry["type"] == kind)
    field = f"linux.namespaces[{index}].path"

    def opener() -> int:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY)
        try:
            found = kernel.namespace_type(fd)
        except OSError:
            found = 0  # not a namespace at all
        if found != getattr(kernel, NAMESPACE_TYPES[kind][1]):
            posix.close(fd)
            raise SpecError(field, f"{path} is not a {kind} namespace", "config-linux.md, Namespaces")
        return fd

    return ctx.plan.handle(path, field, opener)


def _setns(ctx: Context, kind: str, handle: Handle) -> None:
    types = getattr(kernel, NAMESPACE_TYPES[kind][1])
    ctx.plan.add("setns", handle.field, handle, types, detail=f"{kind} {handle.name}")


def _become_root(ctx: Context) -> None:
    ctx.plan.add("setresgid", "linux.gidMappings", 0, 0, 0, detail="root of the user namespace")
    ctx.plan.add("setresuid", "linux.uidMappings", 0, 0, 0, detail="root of the user namespace")


def _write_maps(launch: Any) -> None:
    from ocirt.idmap import write_maps

    write_maps(launch.pid, launch.pidfd, launch.ctx.linux, launch.ctx.host.euid)


def _time_offsets(ctx: Context) -> None:
    """Before the first process enters the namespace; a dumpable process may open its own file."""
    offsets = ctx.linux.get("timeOffsets")
    if not offsets or "time" not in ctx.new_ns:
        return
    lines = []
    for clock, offset in sorted(offsets.items()):
        lines.append(f"{clock} {offset.get('secs') or 0} {offset.get('nanosecs') or 0}\n")
    path = b"self/timens_offsets"
    data = "".join(lines).encode()
    ctx.plan.add("write_file", "linux.timeOffsets", ctx.proc, path, data, posix.O_WRONLY)


def join_container(ctx: Context, pidfd: Handle, container_root: Callable[[], int]) -> None:
    """exec: enter all namespaces of the container at once through its pidfd (setns(2), 5.8).

    container_root opens the init's root directory, for a container that has no mount namespace.
    """
    plan = ctx.plan
    plan.add("prctl", FIELD, kernel.PR_SET_DUMPABLE, 0, 0, 0, 0, detail="not dumpable")
    kinds = ctx.new_ns | set(ctx.join_ns)
    if kinds:
        plan.add("setns", FIELD, pidfd, clone_flags(kinds), detail=" ".join(sorted(kinds)))
    if "user" in kinds:
        _become_root(ctx)
    if "pid" in kinds or "time" in kinds:
        plan.add("fork", FIELD)
    if "mount" not in kinds:
        # Without a mount namespace the container's root was made by chroot.
        root = plan.handle("root of the container", "root.path", container_root)
        plan.add("fchdir", "root.path", root)
        plan.add("chroot", "root.path", b".")
    ctx.root = plan.register("root")
    plan.add("openat", "root.path", ctx.root, AT_FDCWD, b"/", posix.O_PATH | posix.O_DIRECTORY)


def apply_session(ctx: Context, _value: Any) -> None:
    """A session of its own, a keyring of its own, and the loopback device."""
    plan = ctx.plan
    if not ctx.no_new_keyring:
        name = kernel.fsencode(f"_ses.{ctx.id}")
        join = kernel.KEYCTL_JOIN_SESSION_KEYRING
        # ENOSYS: a kernel without keyrings has none to share.
        plan.add("keyctl", "process", join, name, tolerate=kernel.ENOSYS)
        if not ctx.is_exec:
            # Searchable, else exec would not find it by its name and get another one.
            plan.add("keyring_access", "process", KEYRING_ACCESS, tolerate=kernel.ENOSYS)
    plan.add("setsid", "process", tolerate=kernel.EPERM)
    if "network" in ctx.new_ns and not ctx.is_exec:
        plan.add("loopback_up", FIELD)


def apply_hostname(ctx: Context, name: str) -> None:
    data = kernel.fsencode(name)
    ctx.plan.add("sethostname", "hostname", data, len(data), detail=name)


def apply_domainname(ctx: Context, name: str) -> None:
    data = kernel.fsencode(name)
    ctx.plan.add("setdomainname", "domainname", data, len(data), detail=name)


def apply_sysctl(ctx: Context, values: dict[str, str]) -> None:
    """linux.sysctl through the parent's checked procfs: what is mounted in the container cannot
    redirect the write (CVE-2025-52881). The kernel takes the writer's namespaces.
    """
    for key, value in values.items():
        path = b"sys/" + kernel.fsencode(sysctl_path(key))
        field = f"linux.sysctl[{key}]"
        ctx.plan.add("write_file", field, ctx.proc, path, kernel.fsencode(value), posix.O_WRONLY)

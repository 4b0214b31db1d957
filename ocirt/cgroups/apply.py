"""Tie a cgroup manager to the plan: groups and limits by the parent, the join by the init."""

from __future__ import annotations

from ocirt.cgroups.resources import FIELD, left_alone
from ocirt.errors import Unsupported
from ocirt.plan import SYNC_SCOPE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.cgroups.manager import Manager
    from ocirt.context import Context

PATH_FIELD = "linux.cgroupsPath"
EARLY_HOOKS = ("prestart", "createRuntime", "createContainer")


def apply(ctx: Context, resources: dict[str, Any] | None) -> None:
    """linux.resources and linux.cgroupsPath (config-linux.md, Control groups). Also without them:
    every container gets groups of its own.
    """
    wanted = resources or {}
    manager = ctx.cgroup = choose(ctx)
    ctx.warnings += [f"{field}: left alone: {why}" for field, why in left_alone(wanted, manager.version)]
    if manager.driver == "none":
        manager.apply(wanted)  # there is nothing to write to: it refuses what would matter
        return
    plan = ctx.plan
    devices = wanted.get("devices")
    plan.at("CGROUP", PATH_FIELD, "make the groups", lambda launch: manager.create(launch.undo))
    if not manager.needs_pid:
        plan.at("CGROUP", FIELD, "write limits", lambda _: manager.apply(wanted))
    _join(ctx, manager)
    if manager.needs_pid:
        plan.at("SCOPE", FIELD, "write limits", lambda _: manager.apply(wanted))
    uid = owner(ctx) if manager.version == 2 else None
    if uid is not None:
        when = "SCOPE" if manager.needs_pid else "CGROUP"
        plan.at(when, PATH_FIELD, f"hand the group to uid {uid}", lambda _: manager.hand_over(uid))
    # Not before the mounts: the init makes the device nodes, which a rule may deny. But before
    # anything runs that is not ours; without such hooks the init need not stop for it.
    hooks = ctx.spec.get("hooks") or {}
    when = "HOOKS" if any(hooks.get(kind) for kind in EARLY_HOOKS) else "READY"
    plan.at(when, f"{FIELD}.devices", "device rules", lambda _: manager.apply_devices(devices))


def owner(ctx: Context) -> int | None:
    """The host's uid of the container's user, if it is to manage the group (config-linux.md, Cgroup
    ownership): the container sees it as the top, and may write to it.
    """
    if "cgroup" not in ctx.new_ns or "user" in ctx.join_ns:
        return None
    mounts = ctx.spec.get("mounts") or ()
    seen = [mount for mount in mounts if mount["destination"].rstrip("/") == "/sys/fs/cgroup"]
    if (
        not seen
        or seen[-1].get("type") not in ("cgroup", "cgroup2")
        or not {"ro", "rro"}.isdisjoint(seen[-1].get("options") or ())
    ):
        return None
    uid: int = ((ctx.spec.get("process") or {}).get("user") or {}).get("uid") or 0
    if "user" in ctx.new_ns:
        maps = ctx.linux.get("uidMappings") or ()
        found = [each for each in maps if 0 <= uid - each["containerID"] < each["size"]]
        if not found:
            return None
        uid += found[0]["hostID"] - found[0]["containerID"]
    return uid if uid != ctx.host.euid else None


def join(ctx: Context, manager: Manager, init_pid: int = 0) -> None:
    """exec: into the groups of the container.

    init_pid is the container's first process: where it is now counts when nobody can join the
    group that the container was started in.
    """
    ctx.cgroup = manager
    manager.init_pid = init_pid
    _join(ctx, manager)


def _join(ctx: Context, manager: Manager) -> None:
    plan = ctx.plan
    if manager.needs_pid:
        plan.add("sync", PATH_FIELD, SYNC_SCOPE)
        plan.at("SCOPE", PATH_FIELD, "move the process", lambda launch: manager.attach(launch.pid))
        return
    opener = manager.cgroup_dir_opener()
    if opener is not None:
        plan.into_cgroup = plan.handle(manager.paths[""], PATH_FIELD, opener, late=True)
    for name, opener in manager.join_fds():
        tasks = plan.handle(name, PATH_FIELD, opener, late=True)
        plan.add("write_fd", PATH_FIELD, tasks, b"0", detail=name)


def is_cloned_into(ctx: Context) -> bool:
    """Is the init's clone what joins a group of cgroup v2, so that the group must be there first?

    Not with systemd, which moves the process, nor on v1, where the process joins by itself.
    """
    options = ctx.options
    by_files = getattr(options, "cgroup_manager", "cgroupfs") in ("cgroupfs", "", None)
    return by_files and not getattr(options, "systemd_cgroup", False) and bool(ctx.host.unified_mount)


def choose(ctx: Context) -> Manager:
    """The manager that this document, the options and the host ask for."""
    options = ctx.options
    kind = getattr(options, "cgroup_manager", "cgroupfs") or "cgroupfs"
    path = ctx.linux.get("cgroupsPath") or ""
    host = ctx.host
    asked = getattr(options, "rootless", "auto")
    rootless = host.rootless if asked in ("auto", None, "") else str(asked).lower() == "true"
    if kind == "disabled":
        from ocirt.cgroups.manager import NoCgroup

        return NoCgroup("a cgroup, and the manager is disabled")
    if not host.cgroup_layout:
        from ocirt.cgroups.manager import NoCgroup

        if not rootless:
            raise Unsupported(PATH_FIELD, "a mounted cgroup file system")
        return NoCgroup("a mounted cgroup file system")
    if kind == "systemd" or getattr(options, "systemd_cgroup", False):
        from ocirt.cgroups import systemd

        return systemd.choose(ctx, path, rootless)
    if host.cgroup_layout == "v2":
        from ocirt.cgroups import v2

        return v2.choose(host, path, ctx.id, rootless)
    from ocirt.cgroups import v1

    return v1.choose(host, path, ctx.id, rootless)

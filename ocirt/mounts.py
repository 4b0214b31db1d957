"""mounts[]: every entry becomes a detached mount, a checked target and a move_mount.

Nothing is ever mounted onto a path: the target is an fd that was resolved under the root, so a
symlink or a race in the rootfs cannot lead outside (CVE-2019-18837, CVE-2021-30465).
"""

from __future__ import annotations

import posix

from ocirt import kernel
from ocirt.context import words_of
from ocirt.errors import SpecError, Unsupported
from ocirt.mount_options import SUPERBLOCK, parse
from ocirt.plan import AT_FDCWD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.context import Context
    from ocirt.mount_options import MountOptions

# openat2 kinds of the target op
PLAIN_DIRECTORY, MOUNT_POINT = 2, 3
FSCONFIG_LIMIT = 255  # longer values are refused by fsconfig(2) (EINVAL)
HELD = ([b"proc"], [b"sys"])  # masks and read-only paths count from the mount itself
OLD_PARSER = ("overlay", "fuse", "nfs", "nfs4", "cifs", "9p")


def apply_mounts(ctx: Context, mounts: list[dict[str, Any]]) -> None:
    """Ops for mounts[], in their order (config.md, Mounts)."""
    for i, mount in enumerate(mounts):
        field = f"mounts[{i}]"
        options = parse(mount.get("options") or (), field)
        kind = mount.get("type") or ("bind" if options.bind else "none")
        if mount.get("uidMappings") or mount.get("gidMappings"):
            raise Unsupported(f"{field}.uidMappings", "id-mapped mounts")
        destination = kernel.fsencode(mount["destination"])
        if not options.remount:
            _covered(ctx, destination)
            if words_of(destination) == [b"proc"] and kind != "proc" and not options.bind and kind != "bind":
                raise SpecError(f"{field}.type", f"{kind}: only a proc file system may lie on /proc")
        if options.remount:
            _remount(ctx, field, destination, options)
        elif kind == "bind" or options.bind:
            _bind(ctx, field, mount, destination, options)
        elif kind in ("cgroup", "cgroup2"):
            from ocirt.cgroup_mount import mount_cgroups

            mount_cgroups(ctx, field, destination, options)
        elif kind == "none":
            raise SpecError(
                f"{field}.type", "is missing and the options name no bind mount", "config.md, Mounts"
            )
        else:
            _new(ctx, field, kind, mount.get("source") or kind, destination, options)
    notify = getattr(ctx.options, "notify_directory", None)
    if notify and ctx.has_ns("mount"):
        from ocirt.notify import prepare

        ctx.plan.at("OPEN", "NOTIFY_SOCKET", f"mkdir {notify}", lambda _: prepare(notify))
        mount = {"source": notify, "destination": "/run/notify"}
        options = parse(("bind", "ro", "nosuid", "nodev", "noexec"), "NOTIFY_SOCKET")
        _bind(ctx, "NOTIFY_SOCKET", mount, b"/run/notify", options)


def _covered(ctx: Context, destination: bytes) -> None:
    """Forget the mounts that this one hides."""
    top = words_of(destination)
    for place in list(ctx.held):
        if words_of(place)[: len(top)] == top:
            del ctx.held[place]


def attach(
    ctx: Context, field: str, mount: int, target: int, detail: str, options: MountOptions | None = None
) -> None:
    """Move a detached mount onto the checked target, then set its propagation.

    In this order, because a mount that is attached below a shared one becomes shared.
    """
    flags = kernel.MOVE_MOUNT_F_EMPTY_PATH | kernel.MOVE_MOUNT_T_EMPTY_PATH
    ctx.plan.add("move_mount", field, mount, b"", target, b"", flags, detail=detail)
    if options is not None and options.propagation:
        set_attributes(
            ctx,
            field,
            mount,
            detail,
            propagation=options.propagation,
            recursive=options.propagation_recursive,
        )


def set_attributes(
    ctx: Context,
    field: str,
    mount: int,
    detail: str,
    *,
    attr_set: int = 0,
    attr_clear: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    tolerate: int = 0,
) -> None:
    """mount_setattr(2) on the root of a mount that is held by an fd."""
    flags = kernel.AT_EMPTY_PATH | (kernel.AT_RECURSIVE if recursive else 0)
    data = kernel.mount_attr(attr_set, attr_clear, propagation)
    ctx.plan.add("mount_setattr", field, mount, b"", flags, data, detail=detail, tolerate=tolerate)


def new_fs(
    ctx: Context,
    field: str,
    kind: str,
    data: list[str],
    attributes: int,
    detail: str,
    source: str = "",
    register: int | None = None,
) -> int:
    """Register with a detached mount of a new instance of a file system."""
    mount = ctx.plan.mount_register if register is None else register
    words = [kernel.fsencode(word) for word in data]
    words.insert(0, b"source=" + kernel.fsencode(source or kind))
    ctx.plan.add("new_fs", field, mount, kind.encode(), words, attributes, detail=detail)
    return mount


def target(ctx: Context, field: str, destination: bytes, detail: str, kind: int = MOUNT_POINT) -> int:
    """Register with the checked place below the root; what is missing is made."""
    register = ctx.plan.target_register
    ctx.plan.add("target", field, register, ctx.root, destination, kind, 0o755, detail=detail)
    return register


def _bind(ctx: Context, field: str, mount: dict[str, Any], destination: bytes, options: MountOptions) -> None:
    source = mount.get("source")
    if not source:
        raise SpecError(f"{field}.source", "is missing: a bind mount needs it", "config.md, Mounts")
    for word in options.data:
        if word not in SUPERBLOCK:  # the kernel would ignore it
            remark = f"{word!r} is for a new file system and ignored: a bind mount shows one that is there"
            ctx.warnings.append(f"{field}.options: {remark}")
    detail = f"{source} on {mount['destination']}"
    plan = ctx.plan
    flags = kernel.OPEN_TREE_CLONE | kernel.OPEN_TREE_CLOEXEC
    if options.recursive:
        flags |= kernel.AT_RECURSIVE
    path = ctx.path_from_bundle(source)
    register = plan.mount_register
    if words_of(destination) in HELD:
        register = ctx.held[destination] = plan.register(words_of(destination)[0].decode())
    if ctx.userns and ctx.host.euid == 0:
        from ocirt.sources import receive_source

        receive_source(ctx, field, detail, path, flags, register)
    else:
        plan.add("open_tree", field, register, AT_FDCWD, path, flags, detail=detail)
    if words_of(destination) == [b"proc"]:  # CVE-2019-16884
        only = f"{detail}: only a proc file system may lie there"
        plan.add("check_fs", field, register, kernel.PROC_SUPER_MAGIC, detail=only)
    atime = options.attr_set & kernel.MOUNT_ATTR__ATIME
    if options.attr_set - atime:
        set_attributes(ctx, field, register, detail, attr_set=options.attr_set - atime)
    if options.attr_clear:
        # EPERM: locked by a user namespace above us; runc and mount(8) leave it as it is too.
        clear = options.attr_clear
        set_attributes(ctx, field, register, detail, attr_set=atime, attr_clear=clear, tolerate=kernel.EPERM)
    if options.rec_set or options.rec_clear:
        set_attributes(
            ctx,
            field,
            register,
            detail,
            attr_set=options.rec_set,
            attr_clear=options.rec_clear,
            recursive=True,
        )
    place = plan.target_register
    plan.add("target_like", field, place, ctx.root, destination, register, detail=detail)
    attach(ctx, field, register, place, detail, options)


def _new(ctx: Context, field: str, kind: str, source: str, destination: bytes, options: MountOptions) -> None:
    detail = f"{kind} on {kernel.fsdecode(destination)}"
    # A new mount has none below it: "rro" is "ro".
    attributes = options.attr_set & ~options.rec_clear | options.rec_set
    if kind in ("tmpfs", "ramfs") and attributes & kernel.MOUNT_ATTR_RDONLY:
        # Other mounts and the devices may still have to go into it.
        attributes &= ~kernel.MOUNT_ATTR_RDONLY
        ctx.deferred.append((field, destination))
    plan = ctx.plan
    if kind in OLD_PARSER or any(len(word) > FSCONFIG_LIMIT for word in options.data):
        place = target(ctx, field, destination, detail)
        _old(ctx, field, kind, source, place, destination, attributes, options)
        return
    plain = kind in ("proc", "sysfs")  # behind a link the masks would miss it (CVE-2019-19921)
    held = None
    if plain and words_of(destination) in HELD:
        held = ctx.held[destination] = plan.register(kind)
    mount = new_fs(ctx, field, kind, options.data, attributes, detail, source, held)
    place = target(ctx, field, destination, detail, PLAIN_DIRECTORY if plain else MOUNT_POINT)
    if kind == "tmpfs":
        if options.copy_up:
            plan.add("copy_up", field, place, mount, detail=detail)
        if not any(word.startswith("mode=") for word in options.data):
            plan.add("copy_mode", field, place, mount, detail=detail)
    attach(ctx, field, mount, place, detail, options)


def _old(
    ctx: Context,
    field: str,
    kind: str,
    source: str,
    place: int,
    destination: bytes,
    attributes: int,
    options: MountOptions,
) -> None:
    """mount(2) onto the checked fd, for what the new mount API refuses."""
    detail = f"{kind} on {kernel.fsdecode(destination)}"
    data = ",".join(options.data)
    if len(data) >= 4096:
        raise SpecError(f"{field}.options", f"{len(data)} bytes of data; mount(2) takes less than 4096")
    flags = kernel.mount_flags(attributes)
    plan = ctx.plan
    plan.add(
        "old_mount",
        field,
        kernel.fsencode(source),
        place,
        kind.encode(),
        flags,
        kernel.fsencode(data),
        detail=detail,
    )
    if options.propagation:
        mount = plan.mount_register
        # Opened again: place is the directory below the new mount.
        plan.add("open_in_root", field, mount, ctx.root, destination, posix.O_PATH, detail=detail)
        set_attributes(
            ctx,
            field,
            mount,
            detail,
            propagation=options.propagation,
            recursive=options.propagation_recursive,
        )


def _remount(ctx: Context, field: str, destination: bytes, options: MountOptions) -> None:
    """Change the flags and the propagation of what is mounted at the destination."""
    if options.data:
        raise Unsupported(f"{field}.options", f"{options.data[0]!r} with remount")
    mount = ctx.plan.mount_register
    detail = f"remount {kernel.fsdecode(destination)}"
    ctx.plan.add("open_in_root", field, mount, ctx.root, destination, posix.O_PATH, detail=detail)
    for recursive, wanted, unwanted, propagation in (
        (False, options.attr_set, options.attr_clear, 0),
        (True, options.rec_set, options.rec_clear, 0),
        (options.propagation_recursive, 0, 0, options.propagation),
    ):
        if wanted or unwanted or propagation:
            set_attributes(
                ctx,
                field,
                mount,
                detail,
                attr_set=wanted,
                attr_clear=unwanted,
                propagation=propagation,
                recursive=recursive,
            )


def finish_mounts(ctx: Context, _mounts: object) -> None:
    """Make read-only what had to stay writable while the root was filled."""
    for field, destination in ctx.deferred:
        detail = f"read-only {kernel.fsdecode(destination)}"
        mount = ctx.plan.mount_register
        ctx.plan.add("open_in_root", field, mount, ctx.root, destination, posix.O_PATH, detail=detail)
        set_attributes(ctx, field, mount, detail, attr_set=kernel.MOUNT_ATTR_RDONLY)

"""mounts[] of type cgroup: what the container sees below /sys/fs/cgroup."""

from __future__ import annotations

from ocirt import kernel
from ocirt.mounts import attach, new_fs, set_attributes, target
from ocirt.plan import AT_FDCWD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.context import Context
    from ocirt.mount_options import MountOptions


def mount_cgroups(ctx: Context, field: str, destination: bytes, options: MountOptions) -> None:
    """cgroup2, or on v1 and hybrid one tmpfs with a mount for each hierarchy.

    With a cgroup namespace the file systems are mounted anew: they show the namespace's root.
    Without, the container's own directories are bound, so that the host's tree stays hidden.
    """
    # All of it is made here: what is for the whole tree (rro) is for each mount.
    options.attr_set = options.attr_set & ~options.rec_clear | options.rec_set
    options.read_only = bool(options.attr_set & kernel.MOUNT_ATTR_RDONLY)
    if ctx.host.cgroup_layout == "v2":
        _unified(ctx, field, destination, options)
        return
    name = kernel.fsdecode(destination)
    attributes = options.attr_set & ~kernel.MOUNT_ATTR_RDONLY
    tmpfs = new_fs(ctx, field, "tmpfs", ["mode=755"], attributes, f"tmpfs on {name}")
    attach(ctx, field, tmpfs, target(ctx, field, destination, name), name, options)
    for controllers, mount_point in sorted(ctx.host.v1_hierarchies.items()):
        _hierarchy(ctx, field, destination, controllers, mount_point, options)
    if options.read_only:
        ctx.deferred.append((field, destination))


def _unified(ctx: Context, field: str, destination: bytes, options: MountOptions) -> None:
    detail = f"cgroup2 on {kernel.fsdecode(destination)}"
    if ctx.has_ns("cgroup"):
        mount = new_fs(ctx, field, "cgroup2", options.data, options.attr_set, detail, "cgroup")
    else:
        mount = _bind_own(ctx, field, "", ctx.host.unified_mount, detail, options)
    place = target(ctx, field, destination, detail)
    attach(ctx, field, mount, place, detail, options)


def _hierarchy(
    ctx: Context, field: str, destination: bytes, controllers: str, mount_point: str, options: MountOptions
) -> None:
    """One v1 hierarchy under the directory name it has on the host, with links for each part."""
    name = mount_point.rpartition("/")[2]
    place = destination.rstrip(b"/") + b"/" + kernel.fsencode(name)
    detail = f"{controllers} on {kernel.fsdecode(place)}"
    if ctx.has_ns("cgroup"):
        words = controllers.split(",")
        if controllers.startswith("name="):
            words.insert(0, "none")
        mount = new_fs(ctx, field, "cgroup", words, options.attr_set, detail, "cgroup")
    else:
        mount = _bind_own(ctx, field, controllers, mount_point, detail, options)
    attach(ctx, field, mount, target(ctx, field, place, detail), detail, options)
    for part in controllers.split(","):
        part = part.removeprefix("name=")
        if part != name:
            link = destination.rstrip(b"/") + b"/" + kernel.fsencode(part)
            ctx.plan.add("symlink", field, ctx.root, link, kernel.fsencode(name), detail=part)


def _bind_own(
    ctx: Context, field: str, controllers: str, mount_point: str, detail: str, options: MountOptions
) -> int:
    """The container's own group; where it has none (cgroups disabled) the hierarchy's root, which
    belongs to the host and is read-only in any case (CVE-2023-25809)."""
    paths = ctx.cgroup.paths if ctx.cgroup is not None else {}
    path = next((paths[key] for key in (controllers, *controllers.split(",")) if key in paths), None)
    mount = ctx.plan.mount_register
    flags = kernel.OPEN_TREE_CLONE | kernel.OPEN_TREE_CLOEXEC
    place = kernel.fsencode(mount_point if path is None else path)
    ctx.plan.add("open_tree", field, mount, AT_FDCWD, place, flags, detail=detail)
    attributes = options.attr_set | (kernel.MOUNT_ATTR_RDONLY if path is None else 0)
    set_attributes(ctx, field, mount, detail, attr_set=attributes)
    return mount

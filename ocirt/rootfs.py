"""root, linux.rootfsPropagation, maskedPaths, readonlyPaths: from a directory to /."""

from __future__ import annotations

import posix

from ocirt import kernel
from ocirt.context import words_of
from ocirt.errors import SpecError
from ocirt.plan import AT_FDCWD, SYNC_HOOKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.context import Context

PROPAGATION = {
    "private": ("MS_PRIVATE", False),
    "rprivate": ("MS_PRIVATE", True),
    "slave": ("MS_SLAVE", False),
    "rslave": ("MS_SLAVE", True),
    "shared": ("MS_SHARED", False),
    "rshared": ("MS_SHARED", True),
    "unbindable": ("MS_UNBINDABLE", False),
    "runbindable": ("MS_UNBINDABLE", True),
}


def apply_root(ctx: Context, root: dict[str, Any]) -> None:
    """Make the rootfs a mount of its own, held by the root register (config.md, Root).

    Every mount of the host turns into a slave first, so that nothing done here travels back.
    """
    plan = ctx.plan
    field = "root.path"
    ctx.root = plan.register("root")
    if not ctx.has_ns("mount"):
        flags = posix.O_PATH | posix.O_DIRECTORY
        plan.add("openat", field, ctx.root, AT_FDCWD, ctx.rootfs, flags, detail=root["path"])
        return
    propagation = ctx.linux.get("rootfsPropagation") or ""
    if propagation not in PROPAGATION and propagation:
        raise SpecError("linux.rootfsPropagation", f"{propagation!r} is not a propagation type")
    if propagation in ("shared", "rshared"):
        # Volumes stay shared with the host. The rootfs does not: pivot_root refuses a root that
        # is shared or whose parent is, so its mount turns private and "/" is shared again later.
        point = kernel.fsencode(ctx.host.mount_point_of(kernel.fsdecode(ctx.rootfs)))
        kind, flags = "MS_PRIVATE", 0
    else:
        # The bind of the rootfs inherits this; unbindable could not be bound at all.
        point = b"/"
        kind = "MS_PRIVATE" if propagation in ("private", "rprivate") else "MS_SLAVE"
        flags = kernel.AT_RECURSIVE
    data = kernel.mount_attr(0, 0, getattr(kernel, kind))
    plan.add(
        "mount_setattr",
        "linux.rootfsPropagation",
        AT_FDCWD,
        point,
        flags,
        data,
        detail="parent of the rootfs" if flags == 0 else "/",
    )
    flags = kernel.OPEN_TREE_CLONE | kernel.OPEN_TREE_CLOEXEC | kernel.AT_RECURSIVE
    plan.add("open_tree", field, ctx.root, AT_FDCWD, ctx.rootfs, flags, detail=root["path"])
    # runc refuses a rootfs that is a symlink, crun follows it, as open_tree just did.
    flags = kernel.MOVE_MOUNT_F_EMPTY_PATH | kernel.MOVE_MOUNT_T_SYMLINKS
    plan.add("move_mount", field, ctx.root, b"", AT_FDCWD, ctx.rootfs, flags, detail=root["path"])


def apply_hooks_sync(ctx: Context, _value: Any) -> None:
    """The point where the parent runs prestart and createRuntime: mounts made, root not changed."""
    if any(action.when == "HOOKS" for action in ctx.plan.actions):
        ctx.plan.add("sync", "hooks", SYNC_HOOKS)


def apply_pivot(ctx: Context, _value: Any) -> None:
    """Change the root: pivot_root, MS_MOVE for --no-pivot, chroot without a mount namespace."""
    plan = ctx.plan
    if not ctx.has_ns("mount"):
        plan.add("fchdir", "root.path", ctx.root)
        plan.add("chroot", "root.path", b".")
        plan.add("chdir", "root.path", b"/")
        return
    plan.add("move_root" if getattr(ctx.options, "no_pivot", False) else "pivot_root", "root.path", ctx.root)
    plan.add("openat", "root.path", ctx.root, AT_FDCWD, b"/", posix.O_PATH | posix.O_DIRECTORY)


def apply_propagation(ctx: Context, propagation: str) -> None:
    """linux.rootfsPropagation, of the new root (config-linux.md, Rootfs Mount Propagation).

    When all mounts are in place: what is unbindable could not be made read-only any more.
    """
    if propagation and ctx.has_ns("mount"):
        name, recursive = PROPAGATION[propagation]
        flags = kernel.AT_RECURSIVE if recursive else 0
        data = kernel.mount_attr(0, 0, getattr(kernel, name))
        ctx.plan.add("mount_setattr", "linux.rootfsPropagation", AT_FDCWD, b"/", flags, data, detail="/")


def apply_readonly_root(ctx: Context, readonly: bool) -> None:
    if readonly and ctx.has_ns("mount"):
        _make_readonly(ctx, "root.readonly")
    elif readonly:
        raise SpecError("root.readonly", "needs a mount namespace", "config.md, Root")


def _make_readonly(ctx: Context, field: str) -> None:
    data = kernel.mount_attr(kernel.MOUNT_ATTR_RDONLY, 0, 0)
    ctx.plan.add("mount_setattr", field, AT_FDCWD, b"/", 0, data, detail="/")


def apply_readonly_paths(ctx: Context, paths: list[str]) -> None:
    for i, path in enumerate(paths):
        field = f"linux.readonlyPaths[{i}]"
        if not words_of(kernel.fsencode(path)):  # what lies over the root is not seen
            _make_readonly(ctx, field)
            continue
        root, place = _place(ctx, kernel.fsencode(path))
        ctx.plan.add("readonly_path", field, root, place, detail=path)


def _place(ctx: Context, path: bytes) -> tuple[int, bytes]:
    """Register and path below it. In a procfs or sysfs of ours we start from the mount itself:
    who shares the rootfs may have renamed the directory that it lies on by now.
    """
    words = words_of(path)
    if b".." in words:
        return ctx.root, path
    for point, register in ctx.held.items():
        if words == words_of(point):
            del ctx.held[point]  # what comes is mounted over all of it
            break
        if words[:1] == words_of(point):
            return register, b"/".join(words[1:])
    return ctx.root, path


def prepare_masks(ctx: Context, paths: list[str]) -> None:
    """What covers masked paths: files get the host's /dev/null, checked to be it (the container's
    own may be anything: CVE-2025-31133); directories share one empty read-only tmpfs.

    Made before the root changes, while the host's /dev is still in reach.
    """
    if not paths:
        return
    plan = ctx.plan
    field = "linux.maskedPaths"
    ctx.null, ctx.empty = plan.register("null"), plan.register("empty")
    flags = kernel.OPEN_TREE_CLONE | kernel.OPEN_TREE_CLOEXEC
    plan.add("open_tree", field, ctx.null, AT_FDCWD, b"/dev/null", flags, detail="/dev/null")
    plan.add("check_device", field, ctx.null, 1, 3, detail="/dev/null")
    options = [b"source=tmpfs", b"mode=755", b"nr_blocks=1", b"nr_inodes=1"]
    attributes = kernel.MOUNT_ATTR_RDONLY
    plan.add("new_fs", field, ctx.empty, b"tmpfs", options, attributes, detail="tmpfs")


def apply_masked_paths(ctx: Context, paths: list[str]) -> None:
    """Cover what the container must not see (config-linux.md, Masked Paths)."""
    for i, path in enumerate(paths):
        field = f"linux.maskedPaths[{i}]"
        root, place = _place(ctx, kernel.fsencode(path))
        ctx.plan.add("mask_path", field, root, place, ctx.null, ctx.empty, detail=path)

"""linux.devices and the default devices and links of /dev."""

from __future__ import annotations

import posix

from ocirt import kernel
from ocirt.errors import SpecError
from ocirt.mounts import attach
from ocirt.plan import AT_FDCWD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.context import Context

# config-linux.md, Default Devices: path, major, minor
DEFAULT = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
LINKS = (
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)
MAJOR_MAX, MINOR_MAX = (1 << 12) - 1, (1 << 20) - 1  # of the kernel's dev_t
# mknod(2) types by the letter of config.json; u is an unbuffered character device
TYPES = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}


def apply_devices(ctx: Context, devices: list[dict[str, Any]] | None) -> None:
    """Nodes for linux.devices, then what is missing of the defaults.

    A /dev that is bound from elsewhere belongs to somebody else and is left alone.
    """
    if not ctx.has_ns("mount") or dev_is_bound(ctx):
        return
    named = set()
    for i, device in enumerate(devices or ()):
        field = f"linux.devices[{i}]"
        letter = device["type"]
        if letter not in TYPES:
            raise SpecError(
                f"{field}.type", f"{letter!r} is not one of c, u, b, p", "config-linux.md, Devices"
            )
        path = "/" + device["path"].lstrip("/")  # from the root, however it is written
        named.add(path)
        if letter != "p" and ("major" not in device or "minor" not in device):
            raise SpecError(field, "needs major and minor", "config-linux.md, Devices")
        mode = device.get("fileMode")
        permissions = 0o666 if mode is None else mode & 0o7777
        major, minor = device.get("major") or 0, device.get("minor") or 0
        if not (0 <= major <= MAJOR_MAX and 0 <= minor <= MINOR_MAX):
            raise SpecError(field, f"{major}:{minor} is not a device number", "config-linux.md, Devices")
        number = kernel.makedev(major, minor)
        _node(
            ctx,
            field,
            path,
            TYPES[letter] | permissions,
            number,
            device.get("uid") or 0,
            device.get("gid") or 0,
        )
    for path, major, minor in DEFAULT:
        if path not in named:
            _node(ctx, "linux.devices", path, 0o020666, kernel.makedev(major, minor), 0, 0)
    for path, goal in LINKS:
        ctx.plan.add("symlink", "linux.devices", ctx.root, path.encode(), goal.encode(), detail=path)


def dev_is_bound(ctx: Context) -> bool:
    """Is /dev a bind mount?"""
    for mount in ctx.spec.get("mounts") or ():
        if mount["destination"].strip("/") == "dev":
            words = mount.get("options") or ()
            return mount.get("type") == "bind" or "bind" in words or "rbind" in words
    return False


def _node(ctx: Context, field: str, path: str, mode: int, number: int, uid: int, gid: int) -> None:
    plan = ctx.plan
    place = kernel.fsencode(path)
    # Only a fifo may be made in a user namespace; of a device the host's node is bound instead.
    if mode & 0o170000 == TYPES["p"] or not (ctx.userns or ctx.host.in_userns):
        plan.add("mknod", field, ctx.root, place, mode, number, uid, gid, detail=path)
        return
    mount = plan.mount_register
    flags = kernel.OPEN_TREE_CLONE | kernel.OPEN_TREE_CLOEXEC
    plan.add("open_tree", field, mount, AT_FDCWD, place, flags, detail=path)
    plan.add(
        "check_device" if mode & 0o170000 == 0o020000 else "check_block",
        field,
        mount,
        posix.major(number),
        posix.minor(number),
        detail=path,
    )
    plan.add("target", field, plan.target_register, ctx.root, place, 1, 0o755, detail=path)
    attach(ctx, field, mount, plan.target_register, path)

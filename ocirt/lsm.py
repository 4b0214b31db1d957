"""process.apparmorProfile and process.selinuxLabel: the label that execve(2) will give.

Written by the init to its own attr files below the parent's checked procfs: what is mounted on
the container's /proc cannot redirect it (CVE-2019-16884, CVE-2025-52881).
"""

from __future__ import annotations

import posix

from ocirt import kernel
from ocirt.errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.context import Context

APPARMOR_ENABLED = "/sys/module/apparmor/parameters/enabled"
SELINUX_MOUNT = "/sys/fs/selinux"
UNCONFINED = "unconfined"


def apply_apparmor(ctx: Context, profile: str) -> None:
    """Takes effect at execve, under the profile's own rules for that (aa_change_onexec)."""
    if not profile:
        return
    field = "process.apparmorProfile"
    if profile == UNCONFINED and not apparmor_is_enabled():
        return  # nothing confines it

    def check(_launch: Any) -> None:
        if not apparmor_is_enabled():
            raise Unsupported(field, "apparmor is not enabled on the host")

    ctx.plan.at("OPEN", field, "ask whether apparmor is enabled", check)
    data = b"exec " + kernel.fsencode(profile)
    path = b"thread-self/attr/apparmor/exec"
    ctx.plan.add("write_file", field, ctx.proc_handle(), path, data, posix.O_WRONLY, detail=profile)


def apply_selinux(ctx: Context, label: str) -> None:
    """Takes effect at execve (setexeccon)."""
    if not label:
        return
    field = "process.selinuxLabel"

    def check(_launch: Any) -> None:
        if not selinux_is_enabled():
            raise Unsupported(field, "selinux is not enabled on the host")

    ctx.plan.at("OPEN", field, "ask whether selinux is enabled", check)
    data = kernel.fsencode(label)
    path = b"thread-self/attr/exec"
    ctx.plan.add("write_file", field, ctx.proc_handle(), path, data, posix.O_WRONLY, detail=label)


def apparmor_is_enabled() -> bool:
    try:
        return kernel.read_file(APPARMOR_ENABLED, 16).startswith(b"Y")
    except FileNotFoundError:
        return False


def selinux_is_enabled() -> bool:
    try:
        fd = posix.open(SELINUX_MOUNT, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return kernel.fstatfs_magic(fd) == kernel.SELINUX_MAGIC
    finally:
        posix.close(fd)

"""Overlays that the program fuse-overlayfs serves: where the kernel has none, or none for this user.

For root the mount is detached, as overlay.mount makes it: the server gets the open /dev/fuse and
ends when the mount is gone, whatever ends us. A user without root has fusermount3 mount it on a
directory.
"""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

from oci_image.errors import ImageError
from ocirt import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oci_image.userns import Map, Maps

PROGRAM, UNMOUNT = "fuse-overlayfs", "fusermount3"
PLACES = ("/usr/bin", "/usr/local/bin", "/bin")
DEVICE = "/dev/fuse"


def missing() -> str:
    """What fuse-overlayfs needs and this machine has not; "" if all is there."""
    wanted = (PROGRAM,) if os.geteuid() == 0 else (PROGRAM, UNMOUNT)
    for name in wanted:
        if not _find(name):
            return f"{name} is not installed"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} cannot be opened"
    return ""


def _find(name: str) -> str:
    for place in PLACES:
        if os.access(f"{place}/{name}", os.X_OK):
            return f"{place}/{name}"
    return ""


def mount(lower: Sequence[str], upper: str, work: str, maps: Maps | None = None) -> int:
    """Fd of a detached overlay, for root; the caller closes it, or moves it into place.

    lower are directories, lowest first. maps: owners are shown as the ids of the host that they
    stand for, and kept as the container's. Raises ImageError.
    """
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        mount_fd = _detached(device)
        try:
            _serve(lower, upper, work, f"/dev/fd/{device}", [device], maps)
        except BaseException:
            os.close(mount_fd)
            raise
        return mount_fd
    except OSError as error:
        raise ImageError(f"{PROGRAM} on {upper}", os.strerror(error.errno or 0)) from None
    finally:
        os.close(device)


def _detached(device: int) -> int:
    context = kernel.fsopen("fuse")
    try:
        options = {"source": PROGRAM, "fd": device, "rootmode": "40000", "user_id": 0, "group_id": 0}
        for key, value in options.items():
            kernel.fsconfig(context, kernel.FSCONFIG_SET_STRING, key, str(value))
        for flag in ("default_permissions", "allow_other"):
            kernel.fsconfig(context, kernel.FSCONFIG_SET_FLAG, flag)
        kernel.fsconfig(context, kernel.FSCONFIG_CMD_CREATE)
        return kernel.fsmount(context, 0, kernel.MOUNT_ATTR_NODEV)
    finally:
        os.close(context)


def mount_on(lower: Sequence[str], upper: str, work: str, target: str) -> None:
    """An overlay on the directory target, for a user without root. Raises ImageError."""
    _serve(lower, upper, work, target, [], None)


def unmount(target: str) -> None:
    """Undo mount_on. Raises OSError: EINVAL if nothing is mounted there, EBUSY while it is used."""
    if not (os.path.ismount(target) or _is_dead(target)):
        raise OSError(kernel.EINVAL, os.strerror(kernel.EINVAL), target)
    done = subprocess.run([_find(UNMOUNT), "-u", "--", target], capture_output=True)
    if done.returncode:
        raise OSError(kernel.EBUSY, os.strerror(kernel.EBUSY), target)


def _is_dead(target: str) -> bool:
    """Is it a mount whose server has ended?"""
    try:
        os.lstat(target)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def _serve(
    lower: Sequence[str], upper: str, work: str, target: str, fds: list[int], maps: Maps | None
) -> None:
    """Start the server, which goes to the background once it is mounted.

    Directories are named by their fds: commas and colons mean something in its options.
    """
    if ":" in (real := os.path.realpath(upper)):
        raise ImageError(real, f"a colon in this path means something to {PROGRAM}")
    opened = [os.open(path, kernel.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in (*lower, upper, work)]
    try:
        names = [f"/proc/self/fd/{fd}" for fd in opened]
        options = f"lowerdir={':'.join(reversed(names[:-2]))},upperdir={names[-2]},workdir={names[-1]}"
        options += ",writeback=0"  # what is written is in upper at once, with its times, for diff and commit
        if maps:
            options += f",uidmapping={_mapping(maps.uids)},gidmapping={_mapping(maps.gids)}"
        words = [_find(PROGRAM) or PROGRAM, "-o", options, target]
        done = subprocess.run(
            words, pass_fds=[*opened, *fds], capture_output=True, stdin=subprocess.DEVNULL, cwd="/"
        )
    finally:
        for fd in opened:
            os.close(fd)
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").splitlines()
        told = [line for line in lines if not line.startswith("unknown argument ignored")]
        raise ImageError(f"{PROGRAM} on {upper}", "; ".join(told) or f"status {done.returncode}")


def _mapping(rows: Sequence[Map]) -> str:
    """ON-DISK:SHOWN:SIZE, one after another."""
    return ":".join(f"{row.container}:{row.host}:{row.size}" for row in rows)

"""Subvolumes and snapshots of btrfs by their ioctls (linux/btrfs.h): no program of btrfs-progs is needed."""

from __future__ import annotations

import errno
import fcntl
import os
from struct import Struct

from oci_image.removal import remove_tree
from ocirt import kernel

# _IOW(0x94, n, 4096 bytes): the same on x86_64 and aarch64
SNAP_DESTROY, SNAP_CREATE_V2, SUBVOL_CREATE_V2 = 0x5000940F, 0x50009417, 0x50009418
MAX_NAME = 255
_VOL_ARGS = Struct("q4088s")  # fd, name
_VOL_ARGS_V2 = Struct("qQQ32x4040s")  # fd, transid, flags, (qgroups), name
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_btrfs(path: str) -> bool:
    """Does this directory lie on btrfs?"""
    fd = os.open(path, kernel.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return kernel.fstatfs_magic(fd) == kernel.BTRFS_SUPER_MAGIC
    finally:
        os.close(fd)


def create(parent_fd: int, name: str) -> None:
    """An empty subvolume in the directory parent_fd."""
    _ioctl(parent_fd, SUBVOL_CREATE_V2, _VOL_ARGS_V2.pack(0, 0, 0, _name(name)))


def snapshot(subvolume_fd: int, parent_fd: int, name: str) -> None:
    """A writable snapshot of a subvolume in the directory parent_fd. EXDEV on another file system."""
    _ioctl(parent_fd, SNAP_CREATE_V2, _VOL_ARGS_V2.pack(subvolume_fd, 0, 0, _name(name)))


def remove(parent_fd: int, name: str) -> None:
    """Remove a subvolume with all in it; what is missing already is no error.

    At once if it holds no other subvolume and the user may (root, or user_subvol_rm_allowed); else
    as any directory.
    """
    try:
        _ioctl(parent_fd, SNAP_DESTROY, _VOL_ARGS.pack(0, _name(name)))
    except FileNotFoundError:
        return
    except OSError as error:
        # EINVAL, ENOTTY: it is no subvolume, or this is not btrfs
        known = (errno.ENOTEMPTY, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTTY, errno.ENOTDIR)
        if error.errno not in known:
            raise
        remove_tree(parent_fd, name)


def _ioctl(fd: int, request: int, arguments: bytes) -> None:
    fcntl.ioctl(
        fd, request, bytearray(arguments)
    )  # bytes may have 1024 bytes at most, a bytearray any number


def _name(name: str) -> bytes:
    raw = os.fsencode(name)
    if len(raw) > MAX_NAME or b"/" in raw:
        raise OSError(errno.ENAMETOOLONG if len(raw) > MAX_NAME else errno.EINVAL, "subvolume", name)
    return raw

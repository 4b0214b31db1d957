"""Removing a directory tree that somebody hostile made: any depth, links never followed."""

from __future__ import annotations

import errno
import os
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(parent_fd: int, name: bytes | str) -> None:
    """Remove the directory name in parent_fd with all below; what is missing already is no error.

    A directory in it is moved up before its own content is looked at: two levels, however deep it
    was (paths that openat2 followed symlinks to may be deeper than PATH_MAX).
    """
    try:
        top = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent_fd)
        top = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        _open_up(top)
        serial = 0
        while names := _listed(top):
            for child in names:
                if not stat.S_ISDIR(os.stat(child, dir_fd=top, follow_symlinks=False).st_mode):
                    os.unlink(child, dir_fd=top)
                    continue
                serial = _empty(top, child, serial)
                os.rmdir(child, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent_fd)


def _listed(fd: int) -> list[str]:
    """Names in a directory, also new ones: btrfs tells those that were there at the last seek or open."""
    os.lseek(fd, 0, os.SEEK_SET)
    return os.listdir(fd)


def _open_up(fd: int) -> None:
    """A user who owns a directory may still have no right to change it."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & 0o700 != 0o700 and os.geteuid():
        os.fchmod(fd, mode | 0o700)


def _empty(top: int, name: str, serial: int) -> int:
    """Unlink the files of a directory in top and move its directories up into top."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=top)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=top)
        fd = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        _open_up(fd)
        for child in os.listdir(fd):
            if not stat.S_ISDIR(os.stat(child, dir_fd=fd, follow_symlinks=False).st_mode):
                os.unlink(child, dir_fd=fd)
                continue
            if os.geteuid():  # a directory that is moved must be writable: its `..` changes
                below = os.open(child, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                os.chmod(f"/proc/self/fd/{below}", 0o700)
                os.close(below)
            while True:
                serial += 1
                try:
                    os.stat(f".removed-{serial}", dir_fd=top, follow_symlinks=False)
                except FileNotFoundError:
                    break
            try:
                os.rename(child, f".removed-{serial}", src_dir_fd=fd, dst_dir_fd=top)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                remove_tree(fd, child)  # a subvolume of btrfs lies between: nothing is moved out of one
    finally:
        os.close(fd)
    return serial

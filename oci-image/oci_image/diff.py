"""What a container changed in a bundle on an overlay: as docker diff tells it, and as a layer.

The upper directory of the overlay has it all (kernel documentation, overlayfs): new and changed files,
character devices 0:0 for what was removed, trusted.overlay.opaque on directories that hide those
below. layer.md says how a layer writes the same.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from oci_image import tarwrite
from oci_image.layer import OPAQUE, WHITEOUT
from oci_image.tarstream import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK
from ocirt import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADDED, CHANGED, REMOVED = "A", "C", "D"
OVERLAY_OPAQUE = "trusted.overlay.opaque"
OVERLAY = "trusted.overlay."
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}


class Found(NamedTuple):
    """Something in an upper directory: its path, lstat, and the fd of the directory it lies in."""

    path: bytes
    status: os.stat_result
    parent_fd: int

    @property
    def is_whiteout(self) -> bool:
        return stat.S_ISCHR(self.status.st_mode) and self.status.st_rdev == 0

    @property
    def link(self) -> bytes:
        """A path that leads to it, for calls that take no fd."""
        return b"/proc/self/fd/%d/%s" % (self.parent_fd, self.path.rpartition(b"/")[2])

    @property
    def is_opaque(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode) and _opaque(self.link)


def walk(upper_fd: int) -> Iterator[Found]:
    """Everything in an upper directory, parents first, sorted by name."""
    # (fd, path, names left): a stack, because trees may be deep.
    stack = [(os.dup(upper_fd), b"", _names(upper_fd))]
    try:
        while stack:
            fd, path, names = stack[-1]
            if not names:
                stack.pop()
                os.close(fd)
                continue
            name = names.pop()
            found = Found(path + name, os.stat(name, dir_fd=fd, follow_symlinks=False), fd)
            yield found
            if stat.S_ISDIR(found.status.st_mode):
                below = os.open(name, _DIRECTORY, dir_fd=fd)
                stack.append((below, found.path + b"/", _names(below)))
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def _names(fd: int) -> list[bytes]:
    """Names in a directory, the last one first: they are taken from the end."""
    return sorted(map(os.fsencode, os.listdir(fd)), reverse=True)


# As docker diff tells it


def differences(upper_fd: int, lower: list[str]) -> Iterator[tuple[str, bytes]]:
    """(A, C or D, path) of what changed. lower are the directories of the layers, lowest first."""
    for found in walk(upper_fd):
        before = exists(lower, found.path)
        if not found.is_whiteout:
            yield CHANGED if before else ADDED, b"/" + found.path
        elif before:
            yield REMOVED, b"/" + found.path
        if found.is_opaque:
            for name in _listed(lower, found.path):
                if not _in(found, name):
                    yield REMOVED, b"/%s/%s" % (found.path, name)


def _in(directory: Found, name: bytes) -> bool:
    return os.path.lexists(directory.link + b"/" + name)


def exists(lower: list[str], path: bytes) -> bool:
    """Is path there in the layers, as an overlay of them shows it?"""
    return any(True for _ in _levels(lower, path))


def _listed(lower: list[str], path: bytes) -> list[bytes]:
    """Names in a directory of the layers."""
    names: set[bytes] = set()
    for root, status in _levels(lower, path):
        if stat.S_ISDIR(status.st_mode):
            fd = _open_below(root, path)
            try:
                names.update(map(os.fsencode, os.listdir(fd)))
            finally:
                os.close(fd)
    return sorted(name for name in names if exists(lower, path + b"/" + name))


def _open_below(root: str, path: bytes) -> int:
    root_fd = os.open(root, kernel.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolve = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS
        return kernel.openat2(root_fd, path, os.O_RDONLY | os.O_DIRECTORY, 0, resolve)
    finally:
        os.close(root_fd)


def _levels(lower: list[str], path: bytes) -> Iterator[tuple[str, os.stat_result]]:
    """(layer, lstat) of what shows through at path, uppermost first; nothing below what hides it."""
    for root in reversed(lower):
        status, hides = _look(root, path.split(b"/"))
        if status is not None:
            yield root, status
            hides = hides or not stat.S_ISDIR(status.st_mode)
        if hides:
            return


def _look(root: str, parts: list[bytes]) -> tuple[os.stat_result | None, bool]:
    """(lstat of a path in one layer or None, does this layer hide the path in those below?)

    No symlink is followed: what a layer has instead of a directory hides everything below it.
    """
    fd = os.open(root, kernel.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    hides = False
    try:
        for i, part in enumerate(parts):
            try:
                status = os.stat(part, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return None, hides
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                return None, True
            directory = stat.S_ISDIR(status.st_mode)
            hides = hides or (directory and _opaque(b"/proc/self/fd/%d/%s" % (fd, part)))
            if i == len(parts) - 1:
                return status, hides
            if not directory:
                return None, True
            below = os.open(part, kernel.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = below
        return None, hides
    finally:
        os.close(fd)


def _opaque(path: bytes) -> bool:
    try:
        return os.getxattr(path, OVERLAY_OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False  # it has none


# As a layer


def write_layer(upper_fd: int, write: Callable[[bytes], object], latest: int | None = None) -> int:
    """Write the changes as the tar stream of a layer; how many there are.

    The same changes give the same bytes: names are sorted, times not after latest (nanoseconds;
    None: as they are).
    """
    names: dict[tuple[int, int], bytes] = {}
    count = 0
    for found in walk(upper_fd):
        status = found.status
        mode = status.st_mode
        count += 1
        parent, slash, name = found.path.rpartition(b"/")
        if found.is_whiteout:
            write(tarwrite.header(parent + slash + WHITEOUT + name, mode=0))
            continue
        if stat.S_ISSOCK(mode):
            count -= 1
            continue  # means nothing without the program that made it; tar has no type for it
        key = status.st_dev, status.st_ino
        if not stat.S_ISDIR(mode) and status.st_nlink > 1 and key in names:
            write(tarwrite.header(found.path, kind=HARDLINK, linkname=names[key], mode=stat.S_IMODE(mode)))
            continue
        names[key] = found.path
        kind = _KINDS[stat.S_IFMT(mode)]
        device = kind in (CHAR, BLOCK_DEVICE)
        size = status.st_size if kind == FILE else 0
        write(
            tarwrite.header(
                found.path + b"/" if kind == DIRECTORY else found.path,
                size,
                kind=kind,
                mode=stat.S_IMODE(mode),
                uid=status.st_uid,
                gid=status.st_gid,
                mtime=status.st_mtime_ns if latest is None else min(status.st_mtime_ns, latest),
                linkname=os.readlink(found.link) if kind == SYMLINK else b"",
                major=os.major(status.st_rdev) if device else 0,
                minor=os.minor(status.st_rdev) if device else 0,
                xattrs=_xattrs(found.link),
            )
        )
        if kind == FILE:
            _write_content(found, size, write)
        if found.is_opaque:
            write(tarwrite.header(found.path + b"/" + OPAQUE, mode=0))
    write(tarwrite.END)
    return count


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if not name.startswith(OVERLAY) and name != "security.selinux"
    }


def _write_content(found: Found, size: int, write: Callable[[bytes], object]) -> None:
    """size bytes, also where the file changes meanwhile."""
    fd = os.open(found.path.rpartition(b"/")[2], _READ, dir_fd=found.parent_fd)
    try:
        left = size
        while left and (data := os.read(fd, min(left, 1 << 20))):
            write(data)
            left -= len(data)
        while left:
            write(bytes(min(left, 1 << 20)))
            left -= min(left, 1 << 20)
    finally:
        os.close(fd)
    write(tarwrite.padding(size))

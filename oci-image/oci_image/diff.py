"""What a container changed in its bundle: as docker diff tells it, and as a layer.

Where the root is an overlay, its upper directory has it all (kernel documentation, overlayfs): new
and changed files, character devices 0:0 for what was removed, an xattr on directories that hide
those below. compare.py finds the same where the root is a tree of its own. layer.md says how a
layer writes it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from oci_image import tarwrite
from oci_image.errors import ImageError
from oci_image.layer import OPAQUE, WHITEOUT, show
from oci_image.shift import unshifted
from oci_image.tarstream import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK
from ocirt import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oci_image.userns import Maps

ADDED, CHANGED, REMOVED = "A", "C", "D"
# As the kernel marks a directory that hides those below, and as fuse-overlayfs does without privilege.
OPAQUE_XATTRS = ("trusted.overlay.opaque", "user.fuseoverlayfs.opaque")
OF_OVERLAYS = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
HOLE = 4096  # bytes: zeros of so many are a hole, in a file that has holes
_PIECE = 1 << 20
_ZEROS = bytes(HOLE)
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}


class Found(NamedTuple):
    """Something in a directory tree: its path, lstat, and the fd of the directory it lies in."""

    path: bytes
    status: os.stat_result
    parent_fd: int

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]

    @property
    def link(self) -> bytes:
        """A path that leads to it, for calls that take no fd."""
        return b"/proc/self/fd/%d/%s" % (self.parent_fd, self.name or b".")

    @property
    def is_whiteout(self) -> bool:
        return stat.S_ISCHR(self.status.st_mode) and self.status.st_rdev == 0

    @property
    def is_opaque(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode) and _opaque(self.link)


class Change(NamedTuple):
    """kind is ADDED, CHANGED or REMOVED; found, what is at path now, holds until the next change."""

    kind: str
    path: bytes
    found: Found | None = None


def walk(top_fd: int) -> Iterator[Found]:
    """Everything in a directory, parents first, sorted by name."""
    # (fd, path, names left): a stack, because trees may be deep.
    stack = [(os.dup(top_fd), b"", names_in(top_fd))]
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
                stack.append((below, found.path + b"/", names_in(below)))
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def names_in(fd: int) -> list[bytes]:
    """Names in a directory, the last one first: they are taken from the end."""
    return sorted(map(os.fsencode, os.listdir(fd)), reverse=True)


def top(fd: int) -> Found:
    """The directory itself."""
    return Found(b"", os.fstat(fd), fd)


def xattrs_of(found: Found) -> dict[str, bytes]:
    """Without those that say something to an overlay, or to this machine alone."""
    names = os.listxattr(found.link, follow_symlinks=False)
    return {
        name: os.getxattr(found.link, name, follow_symlinks=False)
        for name in sorted(names)
        if not name.startswith(OF_OVERLAYS) and name != "security.selinux"
    }


# What an overlay keeps


def upper_changes(upper_fd: int, lower: list[str], maps: Maps | None = None) -> Iterator[Change]:
    """What changed, parents first. lower are the directories of the layers, lowest first.

    The root itself is told of only where its attributes or its mtime changed. maps: of
    ids in the upper directory.
    """
    if lower and _root_changed(upper_fd, lower[-1], maps):
        yield Change(CHANGED, b"", top(upper_fd))
    opaque: bytes | None = None  # the opaque directory that we are in: those below it hide as well
    for found in walk(upper_fd):
        if found.name == OPAQUE and not found.status.st_size:
            continue  # fuse-overlayfs marks its opaque directories so, too, where it may not otherwise
        before = exists(lower, found.path)
        if found.is_whiteout:
            if before:
                yield Change(REMOVED, found.path)
            continue
        yield Change(CHANGED if before else ADDED, found.path, found)
        if not stat.S_ISDIR(found.status.st_mode):
            continue
        if opaque is not None and not found.path.startswith(opaque):
            opaque = None
        if opaque is None and found.is_opaque:
            opaque = found.path + b"/"
        if opaque is not None:
            for name in _listed(lower, found.path):
                if not os.path.lexists(found.link + b"/" + name):
                    yield Change(REMOVED, found.path + b"/" + name)


def _root_changed(upper_fd: int, lowest: str, maps: Maps | None) -> bool:
    fd = os.open(lowest, _DIRECTORY)
    try:
        before, after = os.fstat(fd), os.fstat(upper_fd)
        owner = after.st_uid, after.st_gid
        if maps:
            owner = maps.inverse().host_ids(*owner) or owner
        if (before.st_mode, before.st_mtime_ns) != (after.st_mode, after.st_mtime_ns):
            return True
        if owner != (before.st_uid, before.st_gid):
            return True
        now = xattrs_of(top(upper_fd))
        return xattrs_of(top(fd)) != (unshifted(now, maps, "/") if maps else now)
    finally:
        os.close(fd)


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
    return sorted(name for name in names if name != OPAQUE and exists(lower, path + b"/" + name))


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
    for name in OPAQUE_XATTRS:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue  # it has none
    return False


# As docker diff tells it


def differences(changes: Iterable[Change]) -> list[tuple[str, bytes]]:
    """(A, C or D, path), sorted by path. Of the root itself it does not tell."""
    found = [(change.kind, b"/" + change.path) for change in changes if change.path]
    return sorted(found, key=lambda change: change[1])


# As a layer


def write_layer(
    changes: Iterable[Change],
    write: Callable[[bytes], object],
    latest: int | None = None,
    maps: Maps | None = None,
) -> int:
    """Write changes as the tar stream of a layer; how many there are. Raises ImageError.

    The same changes give the same bytes: names are sorted, times not after latest (nanoseconds;
    None: as they are). maps: owners are ids of the host that stand for the container's.
    """
    names: dict[tuple[int, int], bytes] = {}
    count = 0
    for kind, path, found in changes:
        parent, slash, name = path.rpartition(b"/")
        if name.startswith(WHITEOUT):
            raise ImageError(f"/{show(path)}", "a layer cannot hold a name that begins with .wh.")
        if kind == REMOVED or found is None:
            write(tarwrite.header(parent + slash + WHITEOUT + name, mode=0))
        elif stat.S_ISSOCK(found.status.st_mode):
            continue  # means nothing without the program that made it; tar has no type for it
        else:
            write_entry(found, write, names, latest, maps)
        count += 1
    write(tarwrite.END)
    return count


def write_entry(
    found: Found,
    write: Callable[[bytes], object],
    names: dict[tuple[int, int], bytes],
    latest: int | None,
    maps: Maps | None,
) -> None:
    """Write one thing that tar has a type for, with its content. names: of the files before it."""
    status, path = found.status, found.path
    mode = status.st_mode
    key = status.st_dev, status.st_ino
    if not stat.S_ISDIR(mode) and status.st_nlink > 1 and key in names:
        write(tarwrite.header(path, kind=HARDLINK, linkname=names[key], mode=stat.S_IMODE(mode)))
        return
    names[key] = path
    kind = _KINDS[stat.S_IFMT(mode)]
    device = kind in (CHAR, BLOCK_DEVICE)
    size = status.st_size if kind == FILE else 0
    owner: tuple[int, int] | None = status.st_uid, status.st_gid
    xattrs = xattrs_of(found)
    if maps:
        owner = maps.inverse().host_ids(status.st_uid, status.st_gid)
        if owner is None:
            raise ImageError(f"/{show(path)}", f"its owner {status.st_uid}:{status.st_gid} is not mapped")
        xattrs = unshifted(xattrs, maps, f"/{show(path)}")
    uid, gid = owner or (0, 0)
    fd = os.open(found.name, _READ, dir_fd=found.parent_fd) if kind == FILE else -1
    try:
        regions = _regions(fd, size) if kind == FILE and status.st_blocks * 512 < size else None
        sparse = regions is not None and regions != [(0, size)]
        table = tarwrite.sparse_map(regions or [], size) if sparse else b""
        stored = len(table) + sum(length for _, length in regions or ()) if sparse else size
        header = tarwrite.header(
            (path or b".") + b"/" if kind == DIRECTORY else path,
            stored,
            kind=kind,
            mode=stat.S_IMODE(mode),
            uid=uid,
            gid=gid,
            mtime=status.st_mtime_ns if latest is None else min(status.st_mtime_ns, latest),
            linkname=os.readlink(found.link) if kind == SYMLINK else b"",
            major=os.major(status.st_rdev) if device else 0,
            minor=os.minor(status.st_rdev) if device else 0,
            xattrs=xattrs,
            sparse_size=size if sparse else None,
        )
        write(header)
        write(table)
        for offset, length in (regions or ()) if sparse else ((0, size),):
            _write_content(fd, offset, length, write)
        write(tarwrite.padding(stored))
    finally:
        if fd >= 0:
            os.close(fd)


def _regions(fd: int, size: int) -> list[tuple[int, int]]:
    """(offset, length) of a file's blocks of HOLE bytes that are not all zeros, joined where they touch.

    So the layer does not depend on how large the blocks of this file system are.
    """
    regions: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # nothing but a hole follows
        at, end = max(at, begin - begin % HOLE), min(size, end + -end % HOLE)
        while at < end and (data := os.pread(fd, min(_PIECE, end - at), at)):
            for start in range(0, len(data), HOLE):
                block = data[start : start + HOLE]
                if block == _ZEROS[: len(block)]:
                    continue
                if regions and sum(regions[-1]) == at + start:
                    regions[-1] = regions[-1][0], regions[-1][1] + len(block)
                else:
                    regions.append((at + start, len(block)))
            at += len(data)
        at = max(at, end)
    return regions


def _write_content(fd: int, offset: int, length: int, write: Callable[[bytes], object]) -> None:
    """length bytes, also where the file changes meanwhile."""
    end = offset + length
    while offset < end and (data := os.pread(fd, min(end - offset, _PIECE), offset)):
        write(data)
        offset += len(data)
    while offset < end:
        write(bytes(min(end - offset, _PIECE)))
        offset += min(end - offset, _PIECE)

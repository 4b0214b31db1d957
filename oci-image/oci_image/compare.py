"""What a container changed where its root is a tree of its own: beside the tree that it was made from.

Kind, mode, size and mtime of what is no directory decide first. Then what the kernel says of the last
change (ctime, which nobody can set): older than the bundle, it is as it was made. Then owner,
device, target, xattrs and the other names of the file; contents last, where all of these are the same.
(A clock that was set back meanwhile hides a change that keeps mode, size and mtime.)
"""

from __future__ import annotations

import os
import stat
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from oci_image.diff import ADDED, CHANGED, REMOVED, Change, Found, names_in, top, walk, xattrs_of
from oci_image.shift import shifted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_image.userns import Maps

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PIECE = 1 << 20


class _Pair(NamedTuple):
    """A directory of the new tree, the same one of the old tree (-1: there was none), names left in both."""

    path: bytes
    new: int
    old: int
    names: list[bytes]


def compared(old_fd: int, new_fd: int, made: int, maps: Maps | None = None) -> Iterator[Change]:
    """What differs in the directory new_fd, parents first, sorted by name.

    made: nanoseconds; what has an older ctime in new_fd was not touched since. maps: owners of
    new_fd are the ids of the host that stand for those of old_fd.
    """
    comparison = _Comparison(old_fd, new_fd, made, maps)
    if comparison.differ(top(old_fd), top(new_fd)):
        yield Change(CHANGED, b"", top(new_fd))
    # Parents of a change are told of before it, as an overlay has them; open is what was not told yet.
    stack = [_Pair(b"", os.dup(new_fd), os.dup(old_fd), _both(new_fd, old_fd))]
    untold: list[Found] = []
    try:
        while stack:
            pair = stack[-1]
            if not pair.names:
                _close(stack.pop())
                if untold and untold[-1].path + b"/" == pair.path:
                    untold.pop()
                continue
            name = pair.names.pop()
            old, new = (_found(pair.path + name, fd) for fd in (pair.old, pair.new))
            kind = comparison.kind(old, new)
            directory = new if new and stat.S_ISDIR(new.status.st_mode) else None
            if kind:
                yield from (Change(CHANGED, found.path, found) for found in untold)
                untold.clear()
                yield Change(kind, pair.path + name, new)
            elif directory:
                untold.append(directory)
            if directory:
                stack.append(_enter(directory, old))
    finally:
        for pair in stack:
            _close(pair)


class _Comparison:
    def __init__(self, old_fd: int, new_fd: int, made: int, maps: Maps | None) -> None:
        self._made = made
        self._maps = maps
        self._fds = new_fd, old_fd

    def kind(self, old: Found | None, new: Found | None) -> str:
        """ADDED, CHANGED, REMOVED, or "" for what is as it was."""
        if new is None:
            return REMOVED
        if old is None:
            return ADDED
        return CHANGED if self.differ(old, new) else ""

    def differ(self, old: Found, new: Found) -> bool:
        before, after = old.status, new.status
        first = before.st_mode, before.st_size, before.st_mtime_ns
        if not stat.S_ISDIR(after.st_mode) and first != (after.st_mode, after.st_size, after.st_mtime_ns):
            return True
        if after.st_ctime_ns < self._made:
            return False
        if before.st_mode != after.st_mode or before.st_mtime_ns != after.st_mtime_ns:
            return True
        owner: tuple[int, int] | None = before.st_uid, before.st_gid
        if self._maps:
            owner = self._maps.host_ids(before.st_uid, before.st_gid)
        if (after.st_uid, after.st_gid) != owner or self._xattrs(old) != xattrs_of(new):
            return True
        mode = after.st_mode
        if stat.S_ISDIR(mode):
            return False
        if before.st_nlink > 1 or after.st_nlink > 1:
            new_names, old_names = self._names
            if new_names.get(new.path) != old_names.get(old.path):
                return True
        if stat.S_ISLNK(mode):
            return os.readlink(old.link) != os.readlink(new.link)
        if not stat.S_ISREG(mode):
            return before.st_rdev != after.st_rdev
        return not _same_content(old, new)

    @cached_property
    def _names(self) -> tuple[dict[bytes, tuple[bytes, ...]], dict[bytes, tuple[bytes, ...]]]:
        """All names of a file by each of them, in both trees."""
        return _names_of_files(self._fds[0]), _names_of_files(self._fds[1])

    def _xattrs(self, old: Found) -> dict[str, bytes]:
        xattrs = xattrs_of(old)
        return shifted(xattrs, self._maps, os.fsdecode(old.path)) if self._maps else xattrs


def _names_of_files(fd: int) -> dict[bytes, tuple[bytes, ...]]:
    names: dict[int, list[bytes]] = {}
    for found in walk(fd):
        if found.status.st_nlink > 1 and not stat.S_ISDIR(found.status.st_mode):
            names.setdefault(found.status.st_ino, []).append(found.path)
    return {path: tuple(paths) for paths in names.values() if len(paths) > 1 for path in paths}


def _both(new_fd: int, old_fd: int) -> list[bytes]:
    """Names in two directories, the last one first."""
    if old_fd < 0:
        return names_in(new_fd)
    return sorted({*names_in(new_fd), *names_in(old_fd)}, reverse=True)


def _found(path: bytes, parent_fd: int) -> Found | None:
    if parent_fd < 0:
        return None
    try:
        status = os.stat(path.rpartition(b"/")[2], dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return Found(path, status, parent_fd)


def _enter(new: Found, old: Found | None) -> _Pair:
    new_fd = os.open(new.name, _DIRECTORY, dir_fd=new.parent_fd)
    old_fd = -1
    if old and stat.S_ISDIR(old.status.st_mode):
        old_fd = os.open(old.name, _DIRECTORY, dir_fd=old.parent_fd)
    return _Pair(new.path + b"/", new_fd, old_fd, _both(new_fd, old_fd))


def _close(pair: _Pair) -> None:
    for fd in (pair.new, pair.old):
        if fd >= 0:
            os.close(fd)


def _same_content(old: Found, new: Found) -> bool:
    fds = [os.open(one.name, _READ, dir_fd=one.parent_fd) for one in (old, new)]
    try:
        while True:
            first, second = (os.read(fd, _PIECE) for fd in fds)
            if first != second:
                return False
            if not first:
                return True
    finally:
        for fd in fds:
            os.close(fd)

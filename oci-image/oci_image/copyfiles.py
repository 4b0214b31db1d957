"""Files and directories into and out of images, bundles and the host, by the rules of docker cp.

What is copied passes as a tar stream: one entry for a file, or a directory as `./` and what it
holds. Names in a tree that is not the host's own are resolved below its root, by openat2(2), when
they are looked at and again when something is made: who changes links meanwhile leads nowhere else
(CVE-2018-15664).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple, Protocol

from oci_image import tarwrite
from oci_image.diff import Found, top, walk, write_entry
from oci_image.digest import CHUNK
from oci_image.errors import ImageError
from oci_image.flatten import resolve, write_file, write_header
from oci_image.layer import ADD, WHITEOUT, Change, clean, show
from oci_image.tarstream import DIRECTORY, FILE, HARDLINK, TarReader
from ocirt import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oci_image.digest import Reader
    from oci_image.flatten import Node
    from oci_image.userns import Maps

MAX_LINKS = 40  # symlinks in one path, as in the kernel
MISSING, NO_DIRECTORY = "there is no such file or directory", "is not a directory"
_IN_ROOT = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS


class Tree(Protocol):
    """What files are copied into."""

    def follow(self, path: bytes) -> tuple[bytes, bool | None]:
        """(path without a symlink at its end, is it a directory? None: nothing is there)"""

    def has_directory(self, path: bytes) -> bool | None:
        """Is there a directory (and no symlink to one)? None: nothing is there."""


class HostTree:
    """A directory of the host, for example the root of a bundle. where names it in errors."""

    def __init__(self, root_fd: int, where: str) -> None:
        self._root = root_fd
        self._where = where

    def follow(self, path: bytes) -> tuple[bytes, bool | None]:
        parent, name, status = self.find(path, follow=True)
        return joined(parent, name), None if status is None else stat.S_ISDIR(status.st_mode)

    def has_directory(self, path: bytes) -> bool | None:
        try:
            _, _, status = self.find(path, follow=False)
        except ImageError:
            return None  # its parent is not there yet
        return None if status is None else stat.S_ISDIR(status.st_mode)

    def find(self, path: bytes, follow: bool) -> tuple[bytes, bytes, os.stat_result | None]:
        """(parent, name, lstat or None) of a path; follow also a symlink at its end. Raises ImageError."""
        for _ in range(MAX_LINKS):
            parent, name = _split(path)
            fd = self.open(parent)
            try:
                status = os.stat(name or b".", dir_fd=fd, follow_symlinks=False)
                if not (stat.S_ISLNK(status.st_mode) and follow):
                    return parent, name, status
                link = os.readlink(name, dir_fd=fd)  # bytes, as name is
            except FileNotFoundError:
                return parent, name, None
            finally:
                os.close(fd)
            path = link if link.startswith(b"/") else joined(parent, link)
        raise ImageError(f"{self._where}: {show(path)}", os.strerror(errno.ELOOP))

    def open(self, path: bytes) -> int:
        """Fd of a directory in the tree. Raises ImageError."""
        try:
            return kernel.openat2(self._root, path or b".", os.O_RDONLY | os.O_DIRECTORY, 0, _IN_ROOT)
        except OSError as error:
            reason = MISSING if error.errno == errno.ENOENT else os.strerror(error.errno or 0)
            raise ImageError(f"{self._where}: /{show(path)}", reason) from None


class ImageTree:
    """The merged layers of an image (flatten.merged_image)."""

    def __init__(self, root: Node, where: str) -> None:
        self._root = root
        self._where = where

    def follow(self, path: bytes) -> tuple[bytes, bool | None]:
        found, node = resolve(self._root, path, self._where)
        return found, None if node is None else node.is_directory

    def has_directory(self, path: bytes) -> bool | None:
        _, node = resolve(self._root, path, self._where, follow=False)
        return None if node is None else node.is_directory


def joined(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent and name else parent or name


def _split(path: bytes) -> tuple[bytes, bytes]:
    """(parent, name); `..` at the end stays in the parent, where the kernel takes it within the root."""
    path = path.strip(b"/")
    while path.endswith(b"/."):
        path = path[:-2].rstrip(b"/")
    if path == b"." or path.rpartition(b"/")[2] == b"..":
        return path, b""
    parent, _, name = path.rpartition(b"/")
    return parent, name


# Out of a tree


def write_source(
    tree: HostTree, path: bytes, write: Callable[[bytes], object], follow: bool, maps: Maps | None = None
) -> bytes:
    """Write the tar stream of what is at path; its name. Raises ImageError.

    follow: a symlink there is followed, as it is where path ends with a slash. maps: owners are ids
    of the host that stand for a container's.
    """
    slash = path.endswith((b"/", b"/."))
    parent, name, status = tree.find(path, follow or slash)
    if status is None:
        raise ImageError(show(path), MISSING)
    names: dict[tuple[int, int], bytes] = {}
    if stat.S_ISDIR(status.st_mode):
        fd = tree.open(joined(parent, name))
        try:
            write_entry(top(fd), write, names, None, maps)
            for found in walk(fd):
                if not stat.S_ISSOCK(found.status.st_mode):
                    write_entry(found, write, names, None, maps)
        finally:
            os.close(fd)
    elif slash:
        raise ImageError(show(path), NO_DIRECTORY)
    elif stat.S_ISSOCK(status.st_mode):
        raise ImageError(show(path), "is a socket, which cannot be copied")
    else:
        fd = tree.open(parent)
        try:
            write_entry(Found(name, status, fd), write, names, None, maps)
        finally:
            os.close(fd)
    write(tarwrite.END)
    return name


# Into a tree


class Target(NamedTuple):
    """Where files go. All belongs to owner (0:0 is the container's root) but with archive. image: it
    is an image, or may become one: no name may be a whiteout's.
    """

    tree: Tree
    path: bytes
    owner: tuple[int, int] = (0, 0)
    archive: bool = False
    image: bool = True


class Incoming:
    """The entries of a tar stream with the names that they get in a tree: an extract.Changes.

    name is that of what was copied; None: the stream is a user's own, to be unpacked into the
    directory Target.path. contents: what a directory holds, without the directory. Refused are names
    of whiteouts, and what would put a file in the place of a directory or the reverse.
    """

    def __init__(self, spool: Reader, name: bytes | None, contents: bool, target: Target) -> None:
        self._where = show(target.path) or "/"
        self._spool = spool
        self._tar = TarReader(self, self._where)
        self._target = target
        self._name = name
        self._contents = contents

    def chunk(self) -> bytes:
        return self._spool.read(CHUNK)

    def data(self) -> Iterator[memoryview]:
        return self._tar.data()

    def changes(self) -> Iterator[Change]:
        base: bytes | None = None
        single = False
        while entry := self._tar.next():
            path = clean(entry.name, self._where)
            if base is None:
                single = self._name is not None and entry.kind != DIRECTORY
                base = self._base(entry.kind == DIRECTORY)
            full = base if single else joined(base, path)
            if self._target.image and any(part.startswith(WHITEOUT) for part in full.split(b"/")):
                raise ImageError(show(full), "an image cannot hold a name that begins with .wh.")
            there = self._target.tree.has_directory(full)
            if there is not None and there != (entry.kind == DIRECTORY):
                raise ImageError(f"/{show(full)}", "is a directory" if there else NO_DIRECTORY)
            if there and not (self._target.archive and path):
                continue  # a directory that is there stays as it is
            if not self._target.archive:
                entry.uid, entry.gid = self._target.owner
            link = b""
            if entry.kind == HARDLINK:
                link = entry.linkname = joined(base, clean(entry.linkname, self._where))
            yield Change(ADD, full, entry, link)

    def _base(self, is_directory: bool) -> bytes:
        """Path of what is copied, or of the directory that a user's stream goes into."""
        path = self._target.path
        found, there = self._target.tree.follow(path)
        if self._name is None or (is_directory and there and (self._contents or not self._name)):
            if not there:
                raise ImageError(self._where, MISSING if there is None else NO_DIRECTORY)
            return found
        if there:
            return joined(found, self._name)
        slash = path.endswith((b"/", b"/."))
        if there is False and (is_directory or slash):
            raise ImageError(self._where, NO_DIRECTORY)
        if there is None:
            if slash and not is_directory:
                raise ImageError(self._where, MISSING)
            parent = found.rpartition(b"/")[0]
            if not self._target.tree.follow(parent)[1]:
                raise ImageError(f"/{show(parent)}", MISSING)
        return found


def write_incoming(incoming: Incoming, write: Callable[[bytes], object]) -> None:
    """The entries as the tar stream of a layer."""
    for change in incoming.changes():
        entry = change.entry
        if entry.kind == FILE:
            write_file(write, change.path, entry, incoming)
        else:
            write_header(write, change.path + (b"/" if entry.kind == DIRECTORY else b""), entry)
    write(tarwrite.END)
